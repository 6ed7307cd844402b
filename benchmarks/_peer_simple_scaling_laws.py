"""Refits by simple-scaling-laws 0.2.0, run by ``fitting.py`` in an interpreter that has it: ``_peer... DATA.npz``.

Its own bootstrap step (warm start guarded by a variable-projection grid) on rows of resampled scores; prints CPU seconds a
draw and the sums of squares.
"""

import json
import sys
import time

import numpy as np
from simple_scaling_laws.fitting import GridSeeder, fit_curve, parameter_bounds
from simple_scaling_laws.laws import build_law
from simple_scaling_laws.uncertainty import _refit

data = np.load(sys.argv[1])
log_x = (np.log(data["compute"]) - np.log(data["compute"]).mean())[:, None]
rows = data["rows"]
law = build_law("bounded-rational-power", [], ["dataset_size__compute"])
weights = np.ones(log_x.shape[0])
bounds = parameter_bounds(law, data["y"], signed_amplitude=True, log_x=log_x)
seeder = GridSeeder(law, log_x, weights, bounds)
point = fit_curve(law, log_x, data["y"], weights, bounds, seeder=seeder).params
start = time.process_time()
costs = [2 * _refit(law, log_x, y, weights, bounds, point, seeder).cost for y in rows]
print(json.dumps({"seconds_per_draw": (time.process_time() - start) / len(rows), "objective": costs}))
