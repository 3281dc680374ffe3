"""What is told of a watched server: the code view, the backlog and the timeline, as data and as pictures."""
