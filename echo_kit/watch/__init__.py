"""How a server is watched: its threads, its socket calls and what it prints, recorded while it runs."""
