"""Parameters: a dense layer from 5 to 4 numbers has 5 x 4 weights and 4 biases. Run: python examples/parameters.py"""

from itertools import pairwise

sizes = [5, 4, 3, 2, 1]
total = 0
for inputs, outputs in pairwise(sizes):
    weights, biases = inputs * outputs, outputs
    total += weights + biases
    print(f"{inputs} x {outputs} = {weights} weights + {biases} biases = {weights + biases}")
print(f"total {total}")
