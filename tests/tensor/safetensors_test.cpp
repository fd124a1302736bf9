#include "tensor/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "support/paths.h"

namespace cortex::testing {
namespace {

std::vector<std::byte> with_header(const std::string& header, std::size_t data_bytes) {
  std::vector<std::byte> bytes(8 + header.size() + data_bytes);
  const std::uint64_t n = header.size();
  std::memcpy(bytes.data(), &n, 8);
  std::memcpy(bytes.data() + 8, header.data(), header.size());
  return bytes;
}

Error fault(const std::string& header, std::size_t data_bytes) {
  const auto parsed = parse_safetensors(with_header(header, data_bytes), "f");
  EXPECT_FALSE(parsed) << header;
  return parsed ? Error{} : parsed.error();
}

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const TempDir folder;
  SafetensorsFile file;
  file.metadata["note"] = "a \"quoted\" note";
  Tensor a({2, 3});
  for (int i = 0; i < 6; ++i) a.f32()[static_cast<std::size_t>(i)] = static_cast<float>(i) / 7;
  file.tensors.emplace("a", std::move(a));
  file.tensors.emplace("b.int8", Tensor({5}, DType::i8));
  file.tensors.emplace("c.bf16", Tensor({2}, DType::bf16));
  file.tensors.emplace("scalar", Tensor(Shape{}));
  file.tensors.emplace("empty", Tensor({0, 4}));
  ASSERT_TRUE(write_safetensors(folder.file("x"), file));
  const auto read = read_safetensors(folder.file("x")).value_or_throw();
  EXPECT_EQ(read.metadata, file.metadata);
  ASSERT_EQ(read.tensors.size(), file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) {
    const Tensor& back = read.tensors.at(name);
    EXPECT_EQ(back.shape(), tensor.shape()) << name;
    EXPECT_EQ(back.dtype(), tensor.dtype()) << name;
    EXPECT_EQ(std::memcmp(back.data(), tensor.data(), tensor.bytes()), 0) << name;
  }
}

TEST(Safetensors, TruncatedAtAnyByteIsAnError) {
  const TempDir folder;
  SafetensorsFile file;
  file.tensors.emplace("weight", Tensor({4, 4}));
  ASSERT_TRUE(write_safetensors(folder.file("x"), file));
  const auto whole = read_file(folder.file("x")).value_or_throw();
  for (std::size_t n = 0; n < whole.size(); ++n) {
    const auto parsed = parse_safetensors(std::span(whole).first(n), "cut.safetensors");
    ASSERT_FALSE(parsed) << n;
    EXPECT_NE(parsed.error().message.find("cut.safetensors"), std::string::npos);
  }
  EXPECT_TRUE(parse_safetensors(whole, "whole"));
}

TEST(Safetensors, EachFaultNamesItsTensor) {
  EXPECT_EQ(fault(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 8).field, "w");
  EXPECT_EQ(fault(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 8).field, "w");
  EXPECT_EQ(fault(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8).field, "w");
  EXPECT_EQ(fault(R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8).field, "w");
  EXPECT_EQ(
      fault(R"({"w":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}})", 8)
          .field,
      "w");
  EXPECT_EQ(fault(R"({"w":{"shape":[2],"data_offsets":[0,8]}})", 8).field, "w");
  EXPECT_EQ(fault(R"({"w":{"dtype":"F32","shape":[2]}})", 8).field, "w");
  const Error unknown = fault(R"({"w":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", 8);
  EXPECT_EQ(unknown.code, ErrorCode::unsupported);
  EXPECT_NE(unknown.message.find("F64"), std::string::npos);
}

TEST(Safetensors, OverlappingAndRepeatedTensorsAreErrors) {
  EXPECT_EQ(fault(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                  R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                  12)
                .field,
            "b");
  EXPECT_EQ(fault(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                  R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                  8)
                .field,
            "a");
}

TEST(Safetensors, AHeaderThatIsNotAnObjectOfObjectsIsAnError) {
  for (const char* header : {"", "[]", "{", "{\"a\":3}", "null", "{\"__metadata__\":[]}",
                             "{\"__metadata__\":{\"a\":3}}"})
    EXPECT_EQ(fault(header, 0).code, ErrorCode::corrupt_data) << header;
}

}  // namespace
}  // namespace cortex::testing
