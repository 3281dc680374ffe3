"""A class of 1,000 simulated students in both modes: every byte, how long an echo takes, what the kernel costs."""

import pytest

import echo_kit

from ..live.test_classroom_soak import whole_class


@pytest.mark.parametrize("serve", [echo_kit.serve_single, echo_kit.serve_threaded], ids=["single", "threaded"])
def test_a_class_of_1000(serve):
    whole_class(1000, 30, serve)
