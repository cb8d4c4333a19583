#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/training_rows.hpp"

namespace chronoward::bindings {

namespace {

// bfloat16 tensors come as the uint16 of their bits: NumPy has no such type.
template <typename T>
struct Stored {
  using type = T;
};
template <>
struct Stored<BFloat16> {
  using type = std::uint16_t;
};
template <typename T>
using Values = Array<typename Stored<T>::type>;

template <typename T>
std::span<const T> values(const Values<T>& array) {
  return {reinterpret_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
}

template <typename T>
std::span<T> values_to_write(Values<T>& array) {
  return {reinterpret_cast<T*>(array.mutable_data()), static_cast<std::size_t>(array.size())};
}

template <typename T>
void gate(const Values<T>& gate_and_up, std::size_t width, Values<T>& out, int n_threads) {
  const auto source = values<T>(gate_and_up);
  const auto result = values_to_write<T>(out);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  gate_rows<T>(source, width, result, n_threads);
}

template <typename T>
void gate_backward(const Values<T>& gate_and_up, std::size_t width, Values<T>& d_out,
                   Values<T>& d_gate_and_up, int n_threads) {
  const auto source = values<T>(gate_and_up);
  const auto gradient = values_to_write<T>(d_out);
  const auto result = values_to_write<T>(d_gate_and_up);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  gate_rows_backward<T>(source, width, gradient, result, n_threads);
}

template <typename T>
void norm(const Floats& x, const Floats& weight, float eps, Values<T>& out, Floats& inverse,
          int n_threads) {
  const auto source = flat(x);
  const auto scale = flat(weight);
  const auto result = values_to_write<T>(out);
  const auto inverses = target(inverse);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  norm_rows<T>(source, scale, eps, result, inverses, n_threads);
}

template <typename T>
void norm_backward(const Floats& x, const Floats& weight, const Floats& inverse,
                   const Values<T>& d_out, Floats& d_x, Floats& d_weight, int n_threads) {
  const auto source = flat(x);
  const auto scale = flat(weight);
  const auto inverses = flat(inverse);
  const auto gradient = values<T>(d_out);
  const auto result = target(d_x);
  const auto d_scale = target(d_weight);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  norm_rows_backward<T>(source, scale, inverses, gradient, result, d_scale, n_threads);
}

HeadRows rows_of(const Floats& q, const Floats& k, const Floats& query_weight,
                 const Floats& key_weight, const Floats& cosine, const Floats& sine, float eps) {
  if (q.ndim() != 3 || k.ndim() != 3) {
    throw std::invalid_argument("q and k must have shape (T, heads, d_head)");
  }
  return {.n_heads = static_cast<std::size_t>(q.shape(1)),
          .n_kv_heads = static_cast<std::size_t>(k.shape(1)),
          .d_head = static_cast<std::size_t>(q.shape(2)),
          .query_weight = flat(query_weight),
          .key_weight = flat(key_weight),
          .cosine = flat(cosine),
          .sine = flat(sine),
          .eps = eps};
}

template <typename T>
void heads(const Values<T>& projected, const Floats& query_weight, const Floats& key_weight,
           const Floats& cosine, const Floats& sine, float eps, Floats& q, Floats& k, Floats& v,
           Floats& inverse, int n_threads) {
  const auto rows = rows_of(q, k, query_weight, key_weight, cosine, sine, eps);
  const auto source = values<T>(projected);
  const auto queries = target(q);
  const auto keys = target(k);
  const auto vs = target(v);
  const auto inverses = target(inverse);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  head_rows<T>(rows, source, queries, keys, vs, inverses, n_threads);
}

template <typename T>
void heads_backward(const Values<T>& projected, const Floats& query_weight,
                    const Floats& key_weight, const Floats& cosine, const Floats& sine, float eps,
                    const Floats& inverse, const Floats& d_q, const Floats& d_k, const Floats& d_v,
                    Values<T>& d_projected, Floats& d_query_weight, Floats& d_key_weight,
                    int n_threads) {
  const auto rows = rows_of(d_q, d_k, query_weight, key_weight, cosine, sine, eps);
  const auto source = values<T>(projected);
  const auto inverses = flat(inverse);
  const auto queries = flat(d_q);
  const auto keys = flat(d_k);
  const auto vs = flat(d_v);
  const auto result = values_to_write<T>(d_projected);
  const auto d_query = target(d_query_weight);
  const auto d_key = target(d_key_weight);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  head_rows_backward<T>(rows, source, inverses, queries, keys, vs, result, d_query, d_key,
                        n_threads);
}

template <typename T>
void bind_rows(py::module_& m) {
  m.def("gate_rows", &gate<T>, "Fills out (n, width) with silu(gate) * up.",
        py::arg("gate_and_up").noconvert(), py::arg("width"), py::arg("out").noconvert(),
        py::arg("n_threads"));
  m.def("gate_rows_backward", &gate_backward<T>,
        "Fills the gradient of gate_and_up; d_out becomes silu(gate) * up.",
        py::arg("gate_and_up").noconvert(), py::arg("width"), py::arg("d_out").noconvert(),
        py::arg("d_gate_and_up").noconvert(), py::arg("n_threads"));
  m.def("norm_rows", &norm<T>, "Fills out with x / rms(x) * weight and inverse with 1 / rms.",
        py::arg("x").noconvert(), py::arg("weight").noconvert(), py::arg("eps"),
        py::arg("out").noconvert(), py::arg("inverse").noconvert(), py::arg("n_threads"));
  m.def("norm_rows_backward", &norm_backward<T>, "Fills d_x, adds to d_weight.",
        py::arg("x").noconvert(), py::arg("weight").noconvert(), py::arg("inverse").noconvert(),
        py::arg("d_out").noconvert(), py::arg("d_x").noconvert(), py::arg("d_weight").noconvert(),
        py::arg("n_threads"));
  m.def("head_rows", &heads<T>,
        "Splits a joint projection into q, k and v, normalizes and rotates q and k.",
        py::arg("projected").noconvert(), py::arg("query_weight").noconvert(),
        py::arg("key_weight").noconvert(), py::arg("cosine").noconvert(),
        py::arg("sine").noconvert(), py::arg("eps"), py::arg("q").noconvert(),
        py::arg("k").noconvert(), py::arg("v").noconvert(), py::arg("inverse").noconvert(),
        py::arg("n_threads"));
  m.def("head_rows_backward", &heads_backward<T>,
        "Fills the gradient of the projection, adds to those of the norms' weights.",
        py::arg("projected").noconvert(), py::arg("query_weight").noconvert(),
        py::arg("key_weight").noconvert(), py::arg("cosine").noconvert(),
        py::arg("sine").noconvert(), py::arg("eps"), py::arg("inverse").noconvert(),
        py::arg("d_q").noconvert(), py::arg("d_k").noconvert(), py::arg("d_v").noconvert(),
        py::arg("d_projected").noconvert(), py::arg("d_query_weight").noconvert(),
        py::arg("d_key_weight").noconvert(), py::arg("n_threads"));
}

}  // namespace

void bind_training(py::module_& m) {
  bind_rows<float>(m);
  bind_rows<BFloat16>(m);
}

}  // namespace chronoward::bindings
