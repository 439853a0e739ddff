// SPDX-License-Identifier: Apache-2.0
#include "calls.hpp"
#include "evictor.hpp"

namespace binding {
namespace {

/// A copy of a contiguous array in the device's memory.
nb::ndarray<nb::array_api, backend::device> to_device(nb::ndarray<nb::ro, nb::device::cpu, nb::c_contig> const& from) {
  auto* const kept = new memory(from.nbytes());
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<memory*>(p); });
  backend::to_backend({}, kept->view().data, from.data(), from.nbytes());
  std::vector<std::size_t> extents;
  for (std::size_t dim = 0; dim < from.ndim(); ++dim) extents.push_back(from.shape(dim));
  return {kept->view().data, extents.size(), extents.data(), owner, nullptr, from.dtype(), backend::device::value};
}

/// A copy of an array of the device, with its strides.
nb::ndarray<nb::numpy> to_host(input_array const& from) {
  std::vector<std::size_t> extents;
  std::vector<std::int64_t> strides;
  std::size_t elements = 1;
  for (std::size_t dim = 0; dim < from.ndim(); ++dim) {
    extents.push_back(from.shape(dim));
    strides.push_back(from.stride(dim));
    if (from.shape(dim) > 1) elements += (from.shape(dim) - 1) * as_size(from.stride(dim));
  }
  auto* const kept = new std::vector<std::byte>(elements * from.itemsize());
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<std::byte>*>(p); });
  backend::from_backend({}, kept->data(), from.data(), kept->size());
  return {kept->data(), extents.size(), extents.data(), owner, strides.data(), from.dtype()};
}

/// Writes a contiguous array over one of the device.
void write(array const& to, nb::ndarray<nb::ro, nb::device::cpu, nb::c_contig> const& from) {
  if (to.nbytes() != from.nbytes()) refuse("write: as many bytes of both");
  backend::to_backend({}, to.data(), from.data(), from.nbytes());
}

}  // namespace
}  // namespace binding

NB_MODULE(_emulated, module) {
  nanobind::set_leak_warnings(false);  // see _core
  module.doc() = "foresightkv over arrays in the memory of an emulated device, which the host cannot read.";
  binding::bind_views(module);
  binding::bind_policies(module);
  binding::bind_evictor(module);
  module.def("to_device", &binding::to_device);
  module.def("to_host", &binding::to_host);
  module.def("write", &binding::write);
}
