// Attention of training: many whole sequences at once, and the way back, on plain numpy arrays.
#include <numeric>
#include <vector>

#include "bindings/bindings.h"

namespace {

using Starts = py::array_t<int32_t, py::array::c_style>;
using Numbers = std::vector<int32_t>;
using Dropped = std::optional<std::tuple<double, uint64_t, uint64_t, uint64_t>>;  // p, seed, stream, offset

// What both ways are asked with.
struct Asked {
  std::string op;
  int64_t rows, keys, sequences, longest, longest_keys;
  int heads, groups, dim;
  float scale, softcap;
  bool causal;
  int64_t window;
  pyllm::Type type;
  Numbers start, key_start;  // of the queries, of the keys that they see
  int64_t bias_stride = 0, bias_zero = 0;
  std::optional<pyllm::WeightDropout> dropped = {};

  [[noreturn]] void refuse(const std::string& what) const { throw std::invalid_argument(op + ": " + what); }
  void has_shape(const char* name, const py::array& a, int64_t length, int64_t width) const {
    if (a.ndim() != 2 || a.shape(0) != length || a.shape(1) != width)
      refuse(std::string(name) + " " + shape_of(a) + ", allowed is (" + std::to_string(length) + ", " +
             std::to_string(width) + ")");
  }
  // Operations of `products` products of every query with every key of its sequence, half of them where it sees half.
  double flops(double products) const {
    double pairs = 0;
    for (int64_t s = 0; s < sequences; ++s) {
      const double length = start[(size_t)s + 1] - start[(size_t)s];
      const double seen = key_start[(size_t)s + 1] - key_start[(size_t)s];
      pairs += window && window < length ? length * (double)window : length * seen * (causal ? 0.5 : 1);
    }
    return 2 * products * pairs * heads * dim;
  }
};

// Where sequences begin among `rows` rows of `what`; gives the longest of them.
int64_t take_starts(const Asked& x, const Starts& starts, const std::string& name, const char* what, int64_t rows,
                    Numbers& into) {
  if (starts.ndim() != 1 || starts.shape(0) < 1)
    x.refuse(name + " " + shape_of(starts) + ", allowed is (sequences + 1,)");
  into.assign(starts.data(), starts.data() + starts.size());
  if (into.front() != 0) x.refuse(name + " begin with " + std::to_string(into.front()) + ", allowed is 0");
  int64_t longest = 0;
  for (size_t s = 0; s + 1 < into.size(); ++s) {
    if (into[s + 1] <= into[s])
      x.refuse(name + " " + std::to_string(into[s + 1]) + " at " + std::to_string(s + 1) + " after " +
               std::to_string(into[s]) + ", they must ascend");
    longest = std::max<int64_t>(longest, into[s + 1] - into[s]);
  }
  if (into.back() != rows)
    x.refuse(name + " end with " + std::to_string(into.back()) + ", " + what + " has " + std::to_string(rows) +
             " rows");
  return longest;
}

void take_sequences(Asked& x, const Starts& starts, const std::optional<Starts>& key_starts) {
  x.longest = x.longest_keys = take_starts(x, starts, "starts", "q", x.rows, x.start);
  x.key_start = x.start, x.sequences = (int64_t)x.start.size() - 1;
  if (!key_starts) return;
  if (x.causal) x.refuse("key_starts with causal, allowed is None: queries and keys are the same tokens");
  x.longest_keys = take_starts(x, *key_starts, "key_starts", "k", x.keys, x.key_start);
  if (x.key_start.size() != x.start.size())
    x.refuse("key_starts of " + std::to_string(x.key_start.size() - 1) + " sequences, allowed is " +
             std::to_string(x.sequences) + ", as many as of queries");
}

// A table (heads, distances): the last is the distance 0 where attention is causal, else the one in the middle.
void take_bias(Asked& x, const FloatArray& bias) {
  if (x.window || x.softcap) x.refuse("bias with window or softcap, allowed is neither");
  const int64_t n = bias.ndim() == 2 ? bias.shape(1) : 0, least = x.causal ? x.longest : 2 * x.longest - 1;
  if (bias.ndim() != 2 || bias.shape(0) != x.heads || n < std::max<int64_t>(least, 1) || (!x.causal && n % 2 == 0))
    x.refuse("bias " + shape_of(bias) + ", allowed is (" + std::to_string(x.heads) + ", " + std::to_string(least) +
             (x.causal ? " or more)" : " or more, an odd number)"));
  x.bias_stride = n, x.bias_zero = x.causal ? n - 1 : n / 2;
}

Asked check(const char* op, const FloatArray& q, const FloatArray& k, const FloatArray& v, const Starts& starts,
            int heads, int groups, float scale, bool causal, int64_t window, float softcap, const std::string& type,
            const std::optional<Starts>& key_starts, const std::optional<FloatArray>& bias, const Dropped& drop) {
  Asked x{op, 0, 0, 0, 0, 0, heads, groups, 0, scale, softcap, causal, window, {}, {}, {}};
  x.type =
      named<pyllm::Type>((x.op + ": type").c_str(), type, {{"F32", pyllm::Type::F32}, {"BF16", pyllm::Type::BF16}});
  if (groups < 1 || heads < 1 || heads % groups)
    x.refuse(std::to_string(heads) + " heads in " + std::to_string(groups) +
             " groups, heads must be a multiple of groups and both above 0");
  if (q.ndim() != 2 || q.shape(1) < 1 || q.shape(1) % heads)
    x.refuse("q " + shape_of(q) + ", allowed is (rows, a multiple of " + std::to_string(heads) + " heads)");
  x.rows = q.shape(0), x.dim = (int)(q.shape(1) / heads);
  x.keys = key_starts && k.ndim() ? k.shape(0) : x.rows;
  x.has_shape("k", k, x.keys, (int64_t)groups * x.dim);
  x.has_shape("v", v, x.keys, (int64_t)groups * x.dim);
  if (window < 0) x.refuse("window " + std::to_string(window) + ", allowed is 0 (all) or more");
  if (window && !causal) x.refuse("window " + std::to_string(window) + " without causal, allowed is 0");
  if (!(softcap >= 0)) x.refuse("softcap " + std::to_string(softcap) + ", allowed is 0 (none) or more");
  take_sequences(x, starts, key_starts);
  if (key_starts && bias) x.refuse("bias with key_starts, allowed is one of them");
  if (bias) take_bias(x, *bias);
  if (drop) {
    const auto draw = std::apply([&](auto... each) { return draw_of(x.op, each...); }, *drop);
    if (draw.offset % pyllm::kPage) x.refuse("offset of the draws, allowed is a multiple of 64");
    x.dropped = {draw, heads, (x.longest_keys + 63) / 64 * 64};
  }
  return x;
}

int64_t lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

// Pages of keys and values for all sequences, each read by the queries of its number. A query that is not causal
// stands at the last position of its keys.
struct Pages {
  std::vector<uint8_t*> at;
  Numbers first;  // row of every page, and the end
  std::vector<pyllm::Row> keys, queries;

  Pages(const Asked& x, uint8_t* memory, int64_t bytes) {
    keys.resize((size_t)x.keys), queries.resize((size_t)x.rows);
    std::vector<size_t> table;
    for (int64_t s = 0; s < x.sequences; ++s) {
      table.push_back(first.size());
      for (int32_t r = x.key_start[(size_t)s]; r < x.key_start[(size_t)s + 1]; r += pyllm::kPage) first.push_back(r);
    }
    for (size_t i = 0; i < first.size(); ++i) at.push_back(memory + (int64_t)i * bytes);
    first.push_back((int32_t)x.keys);
    for (int64_t s = 0; s < x.sequences; ++s) {
      uint8_t* const* pages = at.data() + table[(size_t)s];
      const int64_t begin = x.start[(size_t)s], first_key = x.key_start[(size_t)s], end = x.key_start[(size_t)s + 1];
      for (int64_t r = first_key; r < end; ++r) keys[(size_t)r] = {r - first_key, pages};
      for (int64_t r = begin; r < x.start[(size_t)s + 1]; ++r)
        queries[(size_t)r] = {x.causal ? r - begin : end - first_key - 1, pages};
    }
  }
  static int64_t count(const Asked& x) {
    int64_t n = 0;
    for (int64_t s = 0; s < x.sequences; ++s)
      n += (x.key_start[(size_t)s + 1] - x.key_start[(size_t)s] + pyllm::kPage - 1) / pyllm::kPage;
    return n;
  }
};

py::tuple attention_forward(const FloatArray& q, const FloatArray& k, const FloatArray& v, const Starts& starts,
                            int heads, int groups, float scale, bool causal, int64_t window, float softcap,
                            const std::string& type, const std::optional<Starts>& key_starts,
                            const std::optional<FloatArray>& bias, const Dropped& drop, bool wanted) {
  const Asked x = check("attention_forward", q, k, v, starts, heads, groups, scale, causal, window, softcap, type,
                        key_starts, bias, drop);
  FloatArray out = like(q), lse({wanted ? (py::ssize_t)x.rows : 0, (py::ssize_t)heads});
  const pyllm::CacheLayout layout = {1, groups, x.dim, x.type};
  pyllm::AttentionArgs a{};
  a.q = q.data(), a.out = out.mutable_data(), a.lse = wanted ? lse.mutable_data() : nullptr;
  a.rows = x.rows, a.q_stride = a.out_stride = (int64_t)heads * x.dim;
  a.cache = &layout, a.heads = heads, a.scale = scale, a.softcap = softcap, a.causal = true, a.window = window;
  a.chunks = 1, a.segment = x.start.data(), a.segments = x.sequences;
  a.bias = data(bias), a.bias_stride = x.bias_stride, a.bias_zero = x.bias_zero;
  a.drop = x.dropped ? &*x.dropped : nullptr;
  const pyllm::Kernels& kernels = use();
  without_gil([&] {
    const double flops = x.flops(2);
    const int64_t bytes = lines(layout.page_bytes()), pages = Pages::count(x) * bytes;
    const int64_t slots = x.rows * heads * (16 + pyllm::panels(x.dim) * 16) * 4;
    a.scratch_stride = lines(kernels.attention_scratch(a));
    const Workspace memory((size_t)(pages + slots + a.scratch_stride * pyllm::team_width(flops)));
    const Pages p(x, memory.data(), bytes);
    pyllm::CacheFillArgs fill = {{k.data(), v.data(), p.keys.data(), x.keys, &layout, 0},
                                 p.first.data(),
                                 (int64_t)p.first.size() - 1};
    pyllm::run_kernel(kernels.cache_fill, fill, 8.0 * (double)k.size());
    a.row = p.queries.data();
    a.partial = (float*)(memory.data() + pages);
    a.scratch = memory.data() + pages + slots;
    pyllm::run_kernel(kernels.attention, a, flops);
  });
  return py::make_tuple(out, lse);
}

py::tuple attention_backward(const FloatArray& dout, const FloatArray& q, const FloatArray& k, const FloatArray& v,
                             const FloatArray& out, const FloatArray& lse, const Starts& starts, int heads, int groups,
                             float scale, bool causal, int64_t window, float softcap, const std::string& type,
                             const std::optional<Starts>& key_starts, const std::optional<FloatArray>& bias,
                             const Dropped& drop) {
  const Asked x = check("attention_backward", q, k, v, starts, heads, groups, scale, causal, window, softcap, type,
                        key_starts, bias, drop);
  x.has_shape("dout", dout, x.rows, (int64_t)heads * x.dim);
  x.has_shape("out", out, x.rows, (int64_t)heads * x.dim);
  x.has_shape("lse", lse, x.rows, heads);
  FloatArray dq = like(q), dk = like(k), dv = like(v), dbias = bias ? like(*bias) : FloatArray(0);
  pyllm::AttentionBackwardArgs a{};
  a.bias = data(bias), a.bias_stride = x.bias_stride, a.bias_zero = x.bias_zero;
  a.drop = x.dropped ? &*x.dropped : nullptr;
  float* const bias_sums = dbias.mutable_data();
  a.dout = dout.data(), a.q = q.data(), a.k = k.data(), a.v = v.data(), a.out = out.data(), a.lse = lse.data();
  a.dq = dq.mutable_data(), a.dk = dk.mutable_data(), a.dv = dv.mutable_data();
  a.start = x.start.data(), a.key_start = x.key_start.data(), a.sequences = x.sequences;
  a.longest = x.longest, a.longest_keys = x.longest_keys;
  a.heads = heads, a.groups = groups, a.dim = x.dim, a.scale = scale, a.softcap = softcap, a.causal = causal;
  a.window = window, a.type = x.type;
  const pyllm::Kernels& kernels = use();
  without_gil([&] {
    std::vector<int32_t> order((size_t)x.sequences);
    std::iota(order.begin(), order.end(), 0);
    const auto work = [&](int32_t s) {
      const int64_t rows = x.start[(size_t)s + 1] - x.start[(size_t)s];
      return rows * (x.key_start[(size_t)s + 1] - x.key_start[(size_t)s]);
    };
    std::stable_sort(order.begin(), order.end(), [&](int32_t s, int32_t t) { return work(s) > work(t); });
    a.order = order.data();
    const double flops = x.flops(5);
    a.slices = pyllm::slices(flops);
    a.scratch_stride = lines(kernels.attention_backward_scratch(a));
    const int64_t own = a.scratch_stride * pyllm::team_width(flops), line = heads * x.bias_stride;
    const Workspace memory((size_t)(own + x.sequences * line * 4));
    a.scratch = memory.data(), a.dbias = (float*)(memory.data() + own);
    pyllm::run_kernel(kernels.attention_backward, a, flops);
    if (line) pyllm::run_kernel(kernels.column_sums, {a.dbias, bias_sums, x.sequences, line}, (double)line);
  });
  if (bias) return py::make_tuple(dq, dk, dv, dbias);
  return py::make_tuple(dq, dk, dv);
}

}  // namespace

void bind_training_attention(py::module_& m) {
  m.def("attention_forward", &attention_forward, py::arg("q"), py::arg("k"), py::arg("v"), py::arg("starts"),
        py::arg("heads"), py::arg("groups"), py::arg("scale"), py::arg("causal"), py::arg("window"), py::arg("softcap"),
        py::arg("type"), py::arg("key_starts") = py::none(), py::arg("bias") = py::none(), py::arg("drop") = py::none(),
        py::arg("wanted") = true);
  m.def("attention_backward", &attention_backward, py::arg("dout"), py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("out"), py::arg("lse"), py::arg("starts"), py::arg("heads"), py::arg("groups"), py::arg("scale"),
        py::arg("causal"), py::arg("window"), py::arg("softcap"), py::arg("type"), py::arg("key_starts") = py::none(),
        py::arg("bias") = py::none(), py::arg("drop") = py::none());
}
