#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/philox.hpp"

namespace chronoward::bindings {

namespace {

Array<std::uint32_t> philox_blocks(std::uint64_t key, const PhiloxWords& counters) {
  if (counters.ndim() != 2 || counters.shape(1) != 4) {
    throw std::invalid_argument("counters must have shape (n, 4)");
  }
  PhiloxWords words({counters.shape(0), py::ssize_t{4}});
  const std::uint32_t* in = counters.data();
  std::uint32_t* out = words.mutable_data();
  const py::ssize_t n = counters.shape(0);
  {
    py::gil_scoped_release release;  // the caller's argument and `words` hold both buffers
    for (py::ssize_t i = 0; i < n; ++i, in += 4, out += 4) {
      const PhiloxCounter block = philox4x32(key, {in[0], in[1], in[2], in[3]});
      for (std::size_t w = 0; w < 4; ++w) out[w] = block[w];
    }
  }
  return words;
}

Array<std::uint64_t> splitmix64_words(const Array<std::uint64_t>& words) {
  const auto in = view(words, "words");
  Array<std::uint64_t> out(static_cast<py::ssize_t>(in.size()));
  std::uint64_t* target = out.mutable_data();
  for (const std::uint64_t word : in) *target++ = splitmix64(word);
  return out;
}

}  // namespace

void bind_philox(py::module_& m) {
  m.def("philox4x32", &philox_blocks, py::arg("key"), py::arg("counters").noconvert(),
        "Philox4x32-10 blocks: uint32 (n, 4) counters to uint32 (n, 4) words.");
  m.def("splitmix64", &splitmix64_words, py::arg("words").noconvert(),
        "splitmix64 of each uint64 word.");
}

}  // namespace chronoward::bindings
