"""No pretraining: the architecture's own random weights, drawn from the trial's seed."""

from trainers.network_plan import Initialization

INITIALIZATION = Initialization(description="random weights, drawn from the trial's seed", trained=False)
