"""The servers that `test_servers.py` compares, each in a process of its own: `python servers.py KIND PORT`.

A line of standard error says that it listens. What it prints goes where standard output goes, each line at once, as it
does in a terminal.
"""

import ast
import json
import os
import runpy
import socket
import socketserver
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HOST = "127.0.0.1"


def threaded(port):
    """The threaded server with nothing around it: what watching one is compared with."""

    def serve(host, port):
        with socket.create_server((host, port), backlog=1024) as listener:
            while True:
                threading.Thread(target=handle, args=listener.accept(), daemon=True).start()

    def handle(conn, addr):
        with conn:
            while data := conn.recv(1024):
                conn.sendall(data)

    return serve


def plain(port):
    threading.Thread(target=threaded(port), args=(HOST, port), daemon=True).start()
    threading.Event().wait()


def observed(port):
    import echo_kit

    server = echo_kit.start(threaded(port), port=port, most_events=5000)
    threading.Event().wait()
    server.stop()


def classic(port, program="server_thread.py"):
    sys.argv[1:] = HOST, str(port)
    runpy.run_path(str(ROOT / "notebooks" / "programs" / program), run_name="__main__")


def classic_single(port):
    classic(port, "server.py")


def finished(port, command="server-thread"):
    sys.argv[1:] = command, HOST, str(port)
    runpy.run_module("echo_kit", run_name="__main__", alter_sys=True)


def finished_single(port):
    finished(port, "server")


class Quiet(ast.NodeTransformer):
    """Takes the calls of print out of a program."""

    def visit_Expr(self, node):
        called = node.value.func if isinstance(node.value, ast.Call) else None
        return ast.Pass() if isinstance(called, ast.Name) and called.id == "print" else node


def finished_quiet(port):
    tree = Quiet().visit(ast.parse((ROOT / "echo_kit" / "servers.py").read_text(encoding="utf-8")))
    names = {}
    exec(compile(ast.fix_missing_locations(tree), "servers.py without prints", "exec"), names)
    names["serve_threaded"](HOST, port)


def socketserver_threads(port):
    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            while data := self.request.recv(1024):
                self.request.sendall(data)

    socketserver.ThreadingTCPServer.allow_reuse_address = socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer((HOST, port), Echo) as server:
        server.serve_forever()


async def echo_streams(port):
    import asyncio

    async def echo(reader, writer):
        while data := await reader.read(1024):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, HOST, port, backlog=1024)
    listening()
    await server.serve_forever()


def asyncio_streams(port):
    import asyncio

    asyncio.run(echo_streams(port))


def uvloop_streams(port):
    import uvloop

    uvloop.run(echo_streams(port))


def cell_of_part_3(name):
    """The text of the notebook's cell that defines this server."""
    cells = json.loads((ROOT / "notebooks" / "part3_many_clients.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    return next(text for text in texts if f"def {name}(host, port):" in text)


def selectors_of_part_3(port):
    """The one of the notebook, to the letter."""
    names = {}
    exec(cell_of_part_3("serve_selectors"), names)
    names["serve_selectors"](HOST, port)


# By kind: its name in the table.
KINDS = {
    classic: "classic threaded, prints",
    finished: "finished threaded, prints",
    finished_quiet: "finished threaded, no prints",
    socketserver_threads: "ThreadingTCPServer",
    plain: "plain threads",
    observed: "plain threads, observed",
    selectors_of_part_3: "selectors, of Part 3",
    asyncio_streams: "asyncio streams",
    uvloop_streams: "asyncio streams on uvloop",
    classic_single: "classic single, prints",  # one client at a time
    finished_single: "finished single, prints",
}


def listening():
    os.write(2, b"listening\n")  # not sys.stderr: of a watched server that is its log


def tell(listen):
    def listen_and_tell(self, *backlog):
        listen(self, *backlog)
        listening()

    return listen_and_tell


if __name__ == "__main__":
    kind, port = sys.argv[1:]
    sys.stdout.reconfigure(line_buffering=True)
    socket.socket.listen = tell(socket.socket.listen)
    globals()[kind](int(port))
