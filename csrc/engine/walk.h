// How a recurrent program goes through its sequences: rows step after step, and the states that pages hold.
//
// A page holds the tokens of its positions and two states of all layers: where the last run that ended in it began, if
// that was in it, and where that run ended, at the latest at the page's end. From any other position a run begins
// earlier, at the nearest state, and computes the same bits again: 63 tokens at most. So a position takes no more than
// a few bytes, and pages are cut back, shared and copied as those with keys and values are.
#pragma once
#include <vector>

#include "core/kernels.h"
#include "engine/state.h"

namespace pyllm {

// Of a page whose states have so many numbers.
int64_t state_page_bytes(int64_t numbers);

class Walk {
 public:
  struct One {
    Sequence* sequence;
    int64_t begin, count;  // positions of its rows: from the nearest state on, those given last
    const float* state;    // there; null: zeros
  };
  struct Part {  // of a state: h or c of a layer, for every row
    const float* rows;
    int64_t width;
  };

  // given: the tokens of all segments, one after the other; wanted: some of their rows.
  Walk(const std::vector<Segment>& segments, const int32_t* given, const std::vector<int32_t>& wanted, int64_t numbers);
  void keep(const std::vector<Part>& parts) const;  // into the pages: the states that the rows have come to

  std::vector<One> sequences;   // the longest first
  std::vector<int64_t> start;   // the first row of each step, and how many rows there are
  std::vector<int32_t> tokens;  // of the rows
  std::vector<Row> row;
  std::vector<int32_t> wanted;  // rows, in the order asked for

 private:
  int64_t steps() const { return (int64_t)start.size() - 1; }
  int64_t row_of(int64_t sequence, int64_t position) const {
    return start[(size_t)(position - sequences[(size_t)sequence].begin)] + sequence;
  }
  int64_t numbers_;
};

}  // namespace pyllm
