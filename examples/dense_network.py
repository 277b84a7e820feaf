"""Classical nets: a dense network learns a table. Run: python examples/dense_network.py"""

import csv
import math
import tempfile
from pathlib import Path

import numpy as np

import pyllm

draw = np.random.default_rng(0)
place = tempfile.TemporaryDirectory()
folder = Path(place.name)
with open(folder / "spirals.csv", "w", newline="", encoding="utf-8") as file:
    table = csv.writer(file)
    table.writerow(["x", "y", "arm"])
    for i in range(600):  # two spirals, which no straight line parts
        turn, arm = 0.5 + 9 * i / 600, i % 2
        x, y = np.array([math.cos(turn + arm * math.pi), math.sin(turn + arm * math.pi)]) * turn
        table.writerow([*(np.array([x, y]) + draw.normal(0, 0.2, 2)).round(3), ("red", "blue")[arm]])

for hidden in ((), (32, 32)):
    net = pyllm.fit_table(folder / "spirals.csv", "arm", hidden=hidden, act="tanh", lr=0.01, steps=2000)
    print(f"{net.model!r}: {net.scores['accuracy']:.0%} of {net.scores['rows']} points that it has not seen")

net.save(folder / "run")
again = pyllm.open_table(folder / "run")
print("the first points:", *again.predict(folder / "spirals.csv").values[:4])
place.cleanup()
