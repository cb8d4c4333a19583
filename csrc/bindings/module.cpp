// Table of contents of chronoward._core: errors, then one bind_<area>() a concept.
#include <pybind11/pybind11.h>

#include <system_error>

#include "bindings/bind.hpp"
#include "core/errors.hpp"
#include "core/version.hpp"

namespace py = pybind11;

namespace chronoward::bindings {

/// Core errors become the classes of chronoward/errors.py, so that one `except` serves both.
void register_errors() {
  py::register_exception_translator([](std::exception_ptr pointer) {
    const auto raise = [](const char* name, const char* message) {
      const py::object type = py::module_::import("chronoward.errors").attr(name);
      PyErr_SetString(type.ptr(), message);
    };
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const std::system_error& error) {
      const py::tuple arguments = py::make_tuple(error.code().value(), error.what());
      PyErr_SetObject(PyExc_OSError, arguments.ptr());  // as OSError(errno, text) would be
    } catch (const DataError& error) {
      raise("DataError", error.what());
    } catch (const FormatError& error) {
      raise("FormatError", error.what());
    } catch (const NumericError& error) {
      raise("NumericError", error.what());
    }
  });
}

}  // namespace chronoward::bindings

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace chronoward::bindings;
  m.doc() = "C++ core of chronoward: tokenise, pack, decode.";
  m.attr("__version__") = CHRONOWARD_VERSION;
  m.attr("RULES_VERSION") = chronoward::rules_version();
  register_errors();
  bind_attention(m);
  bind_csv(m);
  bind_engine(m);
  bind_event_arrays(m);
  bind_fit(m);
  bind_output(m);
  bind_decode(m);
  bind_pack(m);
  bind_padded(m);
  bind_records(m);
  bind_meds(m);
  bind_omop(m);
  bind_philox(m);
  bind_store(m);
  bind_tokenizer(m);
  bind_training(m);
}
