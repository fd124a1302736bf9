#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace cortex::hdf5 {

/// Whether what the object header at `address` claims of its attributes and types lies within its
/// own messages. libhdf5 (1.10) copies as many values of an attribute as type and dataspace claim,
/// whether or not the message holds them, as soon as any attribute of the object is looked up; and
/// as many bytes of an enumeration's values as its size claims, as soon as the object is opened.
/// Attributes of shared type or space are refused, since their size stands elsewhere.
/// Layout: HDF5 File Format Specification 3.0, IV.A.1, IV.A.2.d and IV.A.2.m.
bool sound_header(std::span<const std::byte> file, std::uint64_t address);

}  // namespace cortex::hdf5
