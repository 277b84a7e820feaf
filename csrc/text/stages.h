// The stages that splitters are made of; the regular expression of each stands above its definition.
#pragma once
#include <cstddef>

namespace text {

size_t gpt2_words(const char* text, size_t begin, size_t end);
size_t llama3_words(const char* text, size_t begin, size_t end);
size_t qwen2_words(const char* text, size_t begin, size_t end);
size_t qwen35_words(const char* text, size_t begin, size_t end);
size_t any_number_words(const char* text, size_t begin, size_t end);
size_t plain_words(const char* text, size_t begin, size_t end);

size_t one_number(const char* text, size_t begin, size_t end);
size_t three_numbers(const char* text, size_t begin, size_t end);
size_t all_numbers(const char* text, size_t begin, size_t end);
size_t three_digits(const char* text, size_t begin, size_t end);
size_t default_marks(const char* text, size_t begin, size_t end);
size_t falcon_marks(const char* text, size_t begin, size_t end);

size_t one_line_end(const char* text, size_t begin, size_t end);
size_t spaced_letters(const char* text, size_t begin, size_t end);
size_t spaced_punctuation(const char* text, size_t begin, size_t end);
size_t deepseek_letters(const char* text, size_t begin, size_t end);
size_t deepseek_punctuation(const char* text, size_t begin, size_t end);
size_t final_spaces(const char* text, size_t begin, size_t end);
size_t deepseek_han(const char* text, size_t begin, size_t end);
size_t han_and_kana(const char* text, size_t begin, size_t end);
size_t deepseek3_words(const char* text, size_t begin, size_t end);

size_t tekken_words(const char* text, size_t begin, size_t end);
size_t gpt4o_words(const char* text, size_t begin, size_t end);

}  // namespace text
