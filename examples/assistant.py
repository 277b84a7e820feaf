"""ChatGPT: a language model continues a conversation. Run: python examples/assistant.py [QUESTION]"""

import sys

import pyllm
from pyllm.formats import download

path = download.resolve(download.DEFAULT)
tok = pyllm.AutoTokenizer.from_pretrained(path)
model = pyllm.AutoModelForCausalLM.from_pretrained(path)

question = sys.argv[1] if len(sys.argv) > 1 else "Tell me the capital of France."
messages = [{"role": "user", "content": question}]
print("what the model reads:")
print(tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
print("what it answers:")
for piece in pyllm.Chat(model, tok, max_new_tokens=48).stream(question):
    print(piece, end="", flush=True)
print()
