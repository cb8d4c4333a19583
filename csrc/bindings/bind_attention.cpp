#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/packed_attention.hpp"
#include "core/packed_kernels.hpp"

namespace chronoward::bindings {

namespace {

using Ints = Array<std::int32_t>;

TimeBias bias_named(const std::string& name) {
  if (name == "none") return TimeBias::none;
  if (name == "log") return TimeBias::log;
  if (name == "linear") return TimeBias::linear;
  throw std::invalid_argument("bias must be none, log or linear, got " + name);
}

PackedRow row_of(const Floats& q, const Floats& k, const Ints& time_min, const Ints& cu_seqlens,
                 const Ints& kv_end, const Floats& a, const Floats& tau, const std::string& bias,
                 bool in_bf16) {
  if (q.ndim() != 3 || k.ndim() != 3) {
    throw std::invalid_argument("q, k and v must have shape (T, heads, d_head)");
  }
  const auto extent = [](const Floats& x, int axis) {
    return static_cast<std::size_t>(x.shape(axis));
  };
  return {.n_tokens = extent(q, 0),
          .n_heads = extent(q, 1),
          .n_kv_heads = extent(k, 1),
          .d_head = extent(q, 2),
          .time_min = view(time_min, "time_min"),
          .bounds = view(cu_seqlens, "cu_seqlens"),
          .kv_end = view(kv_end, "kv_end"),
          .bias = bias_named(bias),
          .a = view(a, "a"),
          .tau = view(tau, "tau"),
          .in_bf16 = in_bf16 && packed::can_multiply_bf16()};
}

void forward(const Floats& q, const Floats& k, const Floats& v, const Ints& time_min,
             const Ints& cu_seqlens, const Ints& kv_end, const Floats& a, const Floats& tau,
             const std::string& bias, bool in_bf16, Floats& out, Floats& log_sum, int n_threads) {
  const auto row = row_of(q, k, time_min, cu_seqlens, kv_end, a, tau, bias, in_bf16);
  const PackedInputs inputs{flat(q), flat(k), flat(v)};
  const auto out_span = target(out);
  const auto sum_span = target(log_sum);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  packed_attention(row, inputs, out_span, sum_span, n_threads);
}

void backward(const Floats& d_out, const Floats& q, const Floats& k, const Floats& v,
              const Floats& out, const Floats& log_sum, const Ints& time_min,
              const Ints& cu_seqlens, const Ints& kv_end, const Floats& a, const Floats& tau,
              const std::string& bias, bool in_bf16, Floats& d_q, Floats& d_k, Floats& d_v,
              Array<double>& d_a, Array<double>& d_tau, int n_threads) {
  const auto row = row_of(q, k, time_min, cu_seqlens, kv_end, a, tau, bias, in_bf16);
  const PackedInputs inputs{flat(q), flat(k), flat(v)};
  const PackedGradients gradients{target(d_q), target(d_k), target(d_v), target(d_a),
                                  target(d_tau)};
  const auto d_out_span = flat(d_out);
  const auto out_span = flat(out);
  const auto sum_span = flat(log_sum);
  const py::gil_scoped_release release;  // the arguments keep every buffer alive
  packed_attention_backward(row, inputs, d_out_span, out_span, sum_span, gradients, n_threads);
}

}  // namespace

void bind_attention(py::module_& m) {
  m.def("packed_attention", &forward,
        "Fills out (T, heads, d_head) and log_sum (T, heads); kv_end empty is causal.",
        py::arg("q").noconvert(), py::arg("k").noconvert(), py::arg("v").noconvert(),
        py::arg("time_min").noconvert(), py::arg("cu_seqlens").noconvert(),
        py::arg("kv_end").noconvert(), py::arg("a").noconvert(), py::arg("tau").noconvert(),
        py::arg("bias"), py::arg("in_bf16"), py::arg("out").noconvert(),
        py::arg("log_sum").noconvert(), py::arg("n_threads"));
  m.def("packed_attention_backward", &backward,
        "Adds the gradients of q, k, v, a and tau to arrays that are zero.",
        py::arg("d_out").noconvert(), py::arg("q").noconvert(), py::arg("k").noconvert(),
        py::arg("v").noconvert(), py::arg("out").noconvert(), py::arg("log_sum").noconvert(),
        py::arg("time_min").noconvert(), py::arg("cu_seqlens").noconvert(),
        py::arg("kv_end").noconvert(), py::arg("a").noconvert(), py::arg("tau").noconvert(),
        py::arg("bias"), py::arg("in_bf16"), py::arg("d_q").noconvert(), py::arg("d_k").noconvert(),
        py::arg("d_v").noconvert(), py::arg("d_a").noconvert(), py::arg("d_tau").noconvert(),
        py::arg("n_threads"));
}

}  // namespace chronoward::bindings
