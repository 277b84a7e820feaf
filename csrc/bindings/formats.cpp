// What start-up time demands of the file readers: walking a vocabulary of length-prefixed strings.
#include <cstdint>
#include <cstring>

#include "bindings/bindings.h"

namespace {

struct Scan {
  bool complete;
  uint64_t index;   // strings walked
  uint64_t offset;  // where the walk stands
  uint64_t length;  // the length found there, 0 when the length itself does not fit
};

// Walks `count` strings, each a 64-bit length and that many bytes; never reads beyond data[size).
Scan scan(const uint8_t* data, uint64_t size, uint64_t start, uint64_t count, uint64_t* starts, uint64_t* lengths) {
  uint64_t at = start;
  for (uint64_t i = 0; i < count; ++i) {
    if (size - at < 8) return {false, i, at, 0};
    uint64_t length;
    std::memcpy(&length, data + at, 8);
    if (length > size - at - 8) return {false, i, at, length};
    starts[i] = at + 8;
    lengths[i] = length;
    at += 8 + length;
  }
  return {true, count, at, 0};
}

// (starts, lengths, end). Raises ValueError(index, offset, length) at the first string that the buffer does not hold.
py::tuple scan_strings(const py::buffer& buffer, uint64_t start, uint64_t count) {
  const py::buffer_info info = buffer.request();
  if (info.ndim != 1 || info.itemsize != 1 || (info.size > 1 && info.strides[0] != 1)) {
    throw py::value_error("scan_strings: buffer: one dimension of adjoining bytes is wanted");
  }
  const uint64_t size = static_cast<uint64_t>(info.size);
  const auto refuse = [](const Scan& at) {
    PyErr_SetObject(PyExc_ValueError, py::make_tuple(at.index, at.offset, at.length).ptr());
    throw py::error_already_set();
  };
  // A string takes at least its 8 bytes of length: checked first, so that memory is bounded by the bytes present.
  if (start > size || count > (size - start) / 8) refuse({false, 0, start, 0});
  py::array_t<uint64_t> starts(static_cast<py::ssize_t>(count)), lengths(static_cast<py::ssize_t>(count));
  uint64_t* const to_starts = starts.mutable_data();
  uint64_t* const to_lengths = lengths.mutable_data();
  Scan end;
  {
    py::gil_scoped_release unlocked;
    end = scan(static_cast<const uint8_t*>(info.ptr), size, start, count, to_starts, to_lengths);
  }
  if (!end.complete) refuse(end);
  return py::make_tuple(std::move(starts), std::move(lengths), end.offset);
}

}  // namespace

void bind_formats(py::module_& m) {
  m.def("scan_strings", &scan_strings, py::arg("buffer"), py::arg("start"), py::arg("count"),
        "Walk `count` strings (64-bit little-endian length, then bytes) from byte `start`: (starts, lengths, end).\n"
        "starts, lengths: (count,) uint64. Raises ValueError(index, offset, length) where the buffer ends too early.");
}
