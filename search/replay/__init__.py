"""Any pruner on recorded curves: what it would have cost, and what it would have missed."""
