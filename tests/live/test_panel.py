"""What all panels have in common: one that is closed is forgotten, and so is the server that it has shown."""

import gc
import threading
import weakref

import pytest

from echo_kit import predict, serve_single, start
from echo_kit.live.classroom import Classroom
from echo_kit.live.clients import ClientPanel
from echo_kit.live.stage import ServerPanel

LONG = 20  # seconds
PANELS = {
    "stage": ServerPanel,
    "client": lambda server: ClientPanel(server, name="alice"),
    "prediction": lambda server: predict(server.name, {"yes": "yes", "no": "no"}),
    "classroom": Classroom,
}


@pytest.mark.parametrize("make", PANELS.values(), ids=PANELS)
def test_one_that_is_closed_is_forgotten(make):
    """anywidget keeps a panel for ever that has its styles or its script as a path."""
    before = set(threading.enumerate())
    with start(serve_single) as server:
        panel = make(server)
        kept = weakref.ref(panel)
        panel.close()
    del panel
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
    gc.collect()
    assert kept() is None
