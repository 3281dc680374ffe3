"""Many clients at once, and servers in processes of their own: what a design costs, measured from outside."""
