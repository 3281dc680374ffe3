"""The exercises: what each requires, and how an answer is tried against real clients."""
