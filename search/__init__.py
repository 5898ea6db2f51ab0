"""What to try, where, when to stop, what won: the only room that composes the others."""
