"""Slow float64 twins of recurrent layers: one sequence after the other, one step after the other, and the way back."""

from __future__ import annotations

import numpy as np

GATES = {"tanh": 1, "relu": 1, "lstm": 4, "gru": 3}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(cell, gx, h, c, r, bh):
    """(next h, next c, what the way back needs) from the input products gx (gates * units,) with their bias."""
    s = r @ h + bh
    if cell in ("tanh", "relu"):
        y = np.tanh(gx + s) if cell == "tanh" else np.maximum(gx + s, 0)
        return y, c, (h, y)
    if cell == "lstm":
        i, f, g, o = np.split(gx + s, 4)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        after = f * c + i * g
        return o * np.tanh(after), after, (h, c, i, f, g, o, after)
    (xr, xz, xn), (hr, hz, hn) = np.split(gx, 3), np.split(s, 3)
    reset, update = sigmoid(xr + hr), sigmoid(xz + hz)
    new = np.tanh(xn + reset * hn)
    return (1 - update) * new + update * h, c, (h, reset, update, new, hn)


def step_back(cell, kept, dh, dc, r):
    """(gradients of gx, of the recurrent sums, of h before, of c before)."""
    if cell in ("tanh", "relu"):
        _, y = kept
        d = dh * ((1 - y * y) if cell == "tanh" else (y > 0))
        return d, d, r.T @ d, dc
    if cell == "lstm":
        _, c, i, f, g, o, after = kept
        t = np.tanh(after)
        dc = dc + dh * o * (1 - t * t)
        d = np.concatenate([dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g * g), dh * t * o * (1 - o)])
        return d, d, r.T @ d, dc * f
    h, reset, update, new, hn = kept
    dn = dh * (1 - update) * (1 - new * new)
    dr, dz = dn * hn * reset * (1 - reset), dh * (h - new) * update * (1 - update)
    ds = np.concatenate([dr, dz, dn * reset])
    return np.concatenate([dr, dz, dn]), ds, r.T @ ds + dh * update, dc


def rows_of(lengths):
    """Row of (step, sequence) where rows lie step after step and lengths do not ascend."""
    places = [(t, b) for t in range(max(lengths, default=0)) for b in range(len(lengths)) if lengths[b] > t]
    return {place: row for row, place in enumerate(places)}


def forward(cell, lengths, reverse, x, w, r, b, bh, h0, c0):
    """(h of every row, last h, last c, what backward needs)."""
    row, tape = rows_of(lengths), []
    out, last_h, last_c = np.zeros((len(x), r.shape[1]), x.dtype), h0.copy(), c0.copy()
    for n, length in enumerate(lengths):
        h, c, own = h0[n], c0[n], []
        for t in range(length)[:: -1 if reverse else 1]:
            at = row[t, n]
            h, c, kept = step(cell, w @ x[at] + b, h, c, r, bh)
            out[at] = h
            own.append((at, kept))
        last_h[n], last_c[n] = h, c
        tape.append(own)
    return out, last_h, last_c, tape


def backward(cell, x, w, r, h0, c0, tape, dout, dlast_h, dlast_c):
    """Gradients of x, w, r, b, bh, h0, c0."""
    dx, dw, dr = np.zeros_like(x), np.zeros_like(w), np.zeros_like(r)
    db, dbh, dh0, dc0 = np.zeros(len(w)), np.zeros(len(w)), np.zeros_like(h0), np.zeros_like(c0)
    for n, own in enumerate(tape):
        dh, dc = dlast_h[n], dlast_c[n]
        for at, kept in reversed(own):
            d, ds, dh, dc = step_back(cell, kept, dh + dout[at], dc, r)
            dx[at] = w.T @ d
            dw += np.outer(d, x[at])
            dr += np.outer(ds, kept[0])
            db += d
            dbh += ds
        dh0[n], dc0[n] = dh, dc
    return dx, dw, dr, db, dbh, dh0, dc0
