#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace cortex::hdf5 {

/// Whether every attribute in the object header at `address` lies within its own message: name,
/// type, dataspace and values. libhdf5 (1.10) copies as many values as type and dataspace claim,
/// whether or not the message holds them, as soon as any attribute of the object is looked up.
/// Attributes of shared type or space are refused, since their size stands elsewhere.
/// Layout: HDF5 File Format Specification 3.0, IV.A.1 and IV.A.2.m.
bool sound_attributes(std::span<const std::byte> file, std::uint64_t address);

}  // namespace cortex::hdf5
