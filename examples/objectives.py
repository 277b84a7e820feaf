"""What models learn from plain text, without labels: one sentence, posed as each objective poses it.

Run: python examples/objectives.py
"""

import numpy as np

import pyllm
from pyllm.data.draws import Draws
from pyllm.data.lexicon import Lexicon
from pyllm.data.objectives import Piece
from pyllm.data.tasks import OBJECTIVES, objective

TEXT = "My name is Sunny and I am a Data Scientist . Sunny is very good with coding . He knows coding very well ."
SPECIAL = ["<mask>", *(f"<extra_id_{i}>" for i in range(4))]

tokenizer = pyllm.text.train(TEXT, "word", special=SPECIAL)
ids = np.array(tokenizer.encode(TEXT, add_special_tokens=False), np.int32)
piece = Piece(ids, 0, np.append(ids, np.int32(tokenizer.eos_token_id)))


def shown(row):
    """The words of ids, a dot where a target is ignored."""
    return " ".join(tokenizer.convert_ids_to_tokens(int(i)) if i >= 0 else "." for i in row).replace(
        "<|endoftext|>", "|"
    )


for kind, name in (("decoder", "prefix"), ("encoder", "mlm"), ("pairs", "span"), ("pairs", "denoise")):
    assert name in OBJECTIVES[kind]
    posed = objective(name, kind, Lexicon(tokenizer)).pose(piece, Draws(3, name, 0), None)
    print(f"{name}, learned by {'encoder-decoders' if kind == 'pairs' else f'{kind}s'}")
    read, said = posed.sequences[0][0], posed.sequences[-1][1]
    print(f"  reads  {shown(read)}\n  learns {shown(said)}")
