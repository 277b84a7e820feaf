"""Many users at once: their answers share the model's steps. Run: python examples/many_users.py [QUESTION ...]"""

import asyncio
import sys

import pyllm

questions = sys.argv[1:] or ["Tell me the capital of France.", "What is two plus two?", "Name a colour of the sky."]


async def user(engine, question):
    """One user's question and the answer, as it comes."""
    messages = [{"role": "user", "content": question}]
    prompt = engine.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    answer = [event.text async for event in engine.stream(prompt, max_new_tokens=24)]
    print(question, "->", " ".join("".join(answer).split()))


async def main():
    """All users at the same time, in 200 MB of keys and values."""
    model = pyllm.AutoModelForCausalLM.from_pretrained("smollm2")
    async with pyllm.AsyncEngine(model, model.tokenizer, memory="200MB") as engine:
        await asyncio.gather(*(user(engine, question) for question in questions))
        print(engine.stats())


asyncio.run(main())
