"""One trial: network, weights, adaptation, task, loop, checkpoint, evaluation."""
