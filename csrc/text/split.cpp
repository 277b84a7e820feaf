#include "text/split.h"

#include <algorithm>

#include "text/stages.h"

namespace text {
namespace {

using Stages = std::vector<Stage>;

const Stages GPT2 = {gpt2_words};
const Stages STARCODER = {one_number, gpt2_words};
const Stages LLAMA3 = {llama3_words};
const Stages QWEN2 = {qwen2_words};
const Stages DEEPSEEK3 = {three_numbers, han_and_kana, deepseek3_words};

// Models share few ways to split; the names follow `tokenizer.ggml.pre`.
const std::vector<Splitter>& table() {
  static const std::vector<Splitter> splitters = {
      {"a.x-4.0", GPT2},
      {"chatglm-bpe", LLAMA3},
      {"codeshell", STARCODER},
      {"command-r", STARCODER},
      {"dbrx", LLAMA3},
      {"deepseek-coder", {one_line_end, spaced_letters, spaced_punctuation, deepseek_han, one_number}},
      {"deepseek-llm", {one_line_end, deepseek_letters, deepseek_punctuation, final_spaces, deepseek_han, all_numbers}},
      {"deepseek-r1-qwen", QWEN2},
      {"deepseek-v3", DEEPSEEK3},
      {"default", {default_marks, gpt2_words, all_numbers, three_digits}},
      {"exaone", STARCODER},
      {"exaone4", GPT2},
      {"f2llmv2", QWEN2},
      {"falcon", {falcon_marks, gpt2_words, three_digits}},
      {"falcon-h1", LLAMA3, true, true},
      {"falcon3", LLAMA3, true, true},
      {"gigachat", GPT2},
      {"glm4", LLAMA3, true},
      {"glm5", LLAMA3, true},
      {"gpt-2", GPT2},
      {"gpt-4o", {gpt4o_words}},
      {"granite-docling", GPT2},
      {"grok-2", QWEN2},
      {"hunyuan", QWEN2},
      {"hunyuan-dense", DEEPSEEK3},
      {"jais", GPT2},
      {"jina-de", GPT2},
      {"jina-es", GPT2},
      {"jina-v5-nano", LLAMA3, true, true},
      {"joyai-llm", DEEPSEEK3},
      {"kanana2", {gpt4o_words}},
      {"kormo", QWEN2},
      {"lfm2", LLAMA3, true, true},
      {"llama-bpe", LLAMA3, true, true},
      {"llama-v3", LLAMA3, true, true},
      {"llama3", LLAMA3, true, true},
      {"llama4", {gpt4o_words}},
      {"megrez", QWEN2},
      {"mellum", GPT2},
      {"mellum2", STARCODER},
      {"midm-2.0", LLAMA3, true, true},
      {"minerva-7b", STARCODER},
      {"minicpm5", {three_numbers, any_number_words}, true},
      {"minimax-m2", {gpt4o_words}},
      {"mpt", GPT2},
      {"olmo", GPT2},
      {"phi-2", GPT2},
      {"pixtral", LLAMA3, true, true},
      {"qwen2", QWEN2},
      {"qwen35", {qwen35_words}},
      {"refact", STARCODER},
      {"smaug-bpe", LLAMA3},
      {"smollm", STARCODER},
      {"solar-open", QWEN2},
      {"stablelm2", QWEN2},
      {"starcoder", STARCODER},
      {"talkie", {gpt4o_words}},
      {"tekken", {tekken_words}, true, true},
      {"trillion", GPT2},
      {"ufakzeka", {plain_words}},
  };
  return splitters;
}

}  // namespace

const Splitter* find_splitter(std::string_view name) {
  for (const Splitter& splitter : table()) {
    if (name == splitter.name) return &splitter;
  }
  return nullptr;
}

std::vector<std::string> splitter_names() {
  std::vector<std::string> names;
  for (const Splitter& splitter : table()) names.emplace_back(splitter.name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace text
