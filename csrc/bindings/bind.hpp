#pragma once

#include <pybind11/pybind11.h>

// One bind_<area>() a concept; module.cpp calls them in this order.
namespace chronoward::bindings {

void bind_attention(pybind11::module_& m);
void bind_csv(pybind11::module_& m);
void bind_decode(pybind11::module_& m);
void bind_engine(pybind11::module_& m);
void bind_event_arrays(pybind11::module_& m);
void bind_fit(pybind11::module_& m);
void bind_output(pybind11::module_& m);
void bind_pack(pybind11::module_& m);
void bind_padded(pybind11::module_& m);
void bind_philox(pybind11::module_& m);
void bind_meds(pybind11::module_& m);
void bind_omop(pybind11::module_& m);
void bind_records(pybind11::module_& m);
void bind_store(pybind11::module_& m);
void bind_tokenizer(pybind11::module_& m);
void bind_training(pybind11::module_& m);

}  // namespace chronoward::bindings
