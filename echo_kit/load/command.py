"""`python -m echo_kit swarm HOST PORT`: many clients, and an exit code that says whether every byte came back."""

from __future__ import annotations

import argparse
import json
import sys

from .swarm import swarm


def main(parser: argparse.ArgumentParser, arguments: list[str]) -> int:
    """Run it, and return the exit code: 0 if every byte came back, 1 if not, 2 if it cannot run, 130 for Ctrl+C."""
    parser.description = "Many clients talk to an echo server at once; what became of them, and how long answers took."
    parser.epilog = "The exit code is 0 if every client was connected and every byte came back, else 1; "
    parser.epilog += "2 if it cannot run, 130 after Ctrl+C."
    parser.add_argument("host", metavar="HOST")
    parser.add_argument("port", metavar="PORT", type=int)
    parser.add_argument("--clients", type=int, default=1000, metavar="N", help="that connect (default: 1000)")
    parser.add_argument("--messages", type=int, default=5, metavar="N", help="of each active client (default: 5)")
    parser.add_argument("--active", type=int, metavar="N", help="so many of the clients talk (default: all)")
    parser.add_argument("--pace", type=float, metavar="N", help="messages a second of each (default: no limit)")
    parser.add_argument("--size", type=int, default=32, metavar="BYTES", help="of a message (default: 32)")
    parser.add_argument("--timeout", type=float, default=30, metavar="S", help="seconds for all of it (default: 30)")
    parser.add_argument("--stagger", type=float, default=0, metavar="S", help="between two connects (default: 0)")
    parser.add_argument("--slow", type=int, default=0, metavar="N", help="so many send and never read (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = vars(parser.parse_args(arguments))
    address, as_json = (given.pop("host"), given.pop("port")), given.pop("json")
    try:
        report = swarm(address, **given)
    except KeyboardInterrupt:
        print("echo_kit: interrupted, nothing is known of the clients", file=sys.stderr)
        return 130
    except (ValueError, TypeError, RuntimeError) as error:
        print(f"echo_kit: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.to_dict()) if as_json else report.table())
    return 0 if report.complete else 1
