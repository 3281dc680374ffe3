"""Both parts as a student has them: opened in JupyterLab, all cells run, the panels used, and all of it once more."""


def shows_words(book, panels):
    """Wait until each panel of a file that was just opened, and not yet run, says what it is."""
    book.until(
        """(panel, panels) => [...panel.node.querySelectorAll(".jp-Cell-outputArea")]
            .flatMap((each) => each.textContent.match(/It needs a running kernel/g) ?? []).length === panels""",
        panels,
    )


def test_part_1_bob_waits_until_alice_leaves(notebook):
    book = notebook("part1_single_socket.ipynb")
    shows_words(book, panels=3)
    book.run_all()
    use_part_1(book)
    book.restart_and_run_all()
    use_part_1(book)


def use_part_1(book):
    you, alice, bob = (book.panel(name) for name in ("you", "alice", "bob"))
    book.go_to('name="you"')
    you.type("hello")
    you.says("> hello", "Received  :  hello")
    book.go_to('"alice", "bob")')
    alice.is_("being served")
    alice.type("hello")
    alice.says("> hello", "Received  :  hello")
    bob.line.fill("hi")
    bob.click("Send")
    bob.says("> hi (no answer yet)")
    bob.is_("connected, not accepted yet")
    alice.type("news?")
    alice.says("> hello", "Received  :  hello", "> news?", "Received  :  news?")
    bob.says("> hi (no answer yet)")
    alice.click("Disconnect")
    bob.says("> hi", "Received  :  hi")
    bob.is_("being served")
    alice.is_("not connected")
    alice.click("Connect")
    alice.is_("connected, not accepted yet")


def test_part_2_both_get_answers(notebook):
    book = notebook("part2_multithreaded.ipynb")
    shows_words(book, panels=3)
    book.run_all()
    use_part_2(book)
    book.restart_and_run_all()
    use_part_2(book)


def use_part_2(book):
    alice, bob = book.panel("alice"), book.panel("bob")
    book.go_to('"alice", "bob", "carol")')
    bob.is_("being served")
    alice.type("hello")
    bob.line.fill("hi")
    bob.click("Send")
    alice.says("> hello", "Received  :  hello")
    bob.says("> hi", "Received  :  hi")
    alice.click("Disconnect")
    alice.is_("not connected")
    bob.type("still here")
    bob.says("> hi", "Received  :  hi", "> still here", "Received  :  still here")
    alice.click("Connect")
    alice.type("back")
    alice.says("disconnected", "> back", "Received  :  back")
