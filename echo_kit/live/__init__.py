"""What lives in the page while a notebook is open: the stage, the panels of clients, the predictions."""
