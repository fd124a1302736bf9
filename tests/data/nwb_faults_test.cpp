#include <fmt/format.h>
#include <hdf5.h>
#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "data/hdf5_file.h"
#include "data/hdf5_headers.h"
#include "data/nwb.h"
#include "recordings.h"

// libhdf5 1.10 itself loses some bytes on damaged metadata; what is ours is still watched.
// NOLINTNEXTLINE(bugprone-reserved-identifier): the sanitizer's name
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace cortex {
namespace {

using testing::data_path;
using testing::TempDir;
using testing::tiny_recording;

/// A sound file to be broken in one place.
class NwbFaults : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(write_nwb(path_, tiny_recording())); }

  void edit(const std::function<void(hid_t)>& change) {
    const hid_t file = H5Fopen(path_.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    change(file);
    ASSERT_GE(H5Fclose(file), 0);
  }
  void remove(const std::string& name) {
    edit([&](hid_t file) { ASSERT_GE(H5Ldelete(file, name.c_str(), H5P_DEFAULT), 0); });
  }
  template <class T>
  void replace(const std::string& name, hid_t file_type, hid_t memory_type,
               const std::vector<T>& values, std::vector<hsize_t> dims = {}) {
    if (dims.empty()) dims = {values.size()};
    edit([&](hid_t file) {
      H5Ldelete(file, name.c_str(), H5P_DEFAULT);
      const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
      const hid_t data =
          H5Dcreate2(file, name.c_str(), file_type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
      ASSERT_GE(H5Dwrite(data, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
      H5Dclose(data);
      H5Sclose(space);
    });
  }
  void reals(const std::string& name, const std::vector<double>& values,
             const std::vector<hsize_t>& dims = {}) {
    replace(name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, values, dims);
  }
  void integers(const std::string& name, const std::vector<std::int64_t>& values,
                hid_t file_type = H5T_STD_I64LE) {
    replace(name, file_type, H5T_NATIVE_INT64, values);
  }
  /// A dataset of float64 in place of `name`, none of its chunks written yet.
  void in_chunks(const std::string& name, const std::vector<hsize_t>& dims,
                 const std::vector<hsize_t>& chunk, const std::function<void(hid_t)>& filters) {
    edit([&](hid_t file) {
      H5Ldelete(file, name.c_str(), H5P_DEFAULT);
      const hid_t space = H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
      const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
      H5Pset_chunk(create, static_cast<int>(chunk.size()), chunk.data());
      filters(create);
      const hid_t data =
          H5Dcreate2(file, name.c_str(), H5T_IEEE_F64LE, space, H5P_DEFAULT, create, H5P_DEFAULT);
      ASSERT_GE(data, 0);
      H5Dclose(data);
      H5Pclose(create);
      H5Sclose(space);
    });
  }
  void write_chunk(const std::string& name, const std::vector<hsize_t>& at,
                   const std::string& bytes, std::uint32_t skipped) {
    edit([&](hid_t file) {
      const hid_t data = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
      ASSERT_GE(H5Dwrite_chunk(data, H5P_DEFAULT, skipped, at.data(), bytes.size(), bytes.data()),
                0);
      H5Dclose(data);
    });
  }
  /// The first `count` values as a zlib stream.
  static std::string packed(const std::vector<double>& values, std::size_t count) {
    uLongf bytes = compressBound(count * sizeof(double));
    std::string out(bytes, '\0');
    compress(reinterpret_cast<Bytef*>(out.data()), &bytes,
             reinterpret_cast<const Bytef*>(values.data()), count * sizeof(double));
    out.resize(bytes);
    return out;
  }
  void expect_corrupt(const std::vector<std::string>& says) {
    const auto read = read_nwb(path_);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, ErrorCode::corrupt_data) << read.error().message;
    EXPECT_NE(read.error().message.find(path_), std::string::npos) << read.error().message;
    for (const std::string& text : says)
      EXPECT_NE(read.error().message.find(text), std::string::npos)
          << read.error().message << " lacks " << text;
  }

  const TempDir folder_;
  const std::string path_ = folder_.file("broken.nwb");
};

TEST_F(NwbFaults, AMissingColumnIsNamed) {
  for (const char* name :
       {"/units/spike_times_index", "/units/obs_intervals_index", "/intervals/trials/stop_time",
        "/intervals/trials/start_time", "/intervals/trials/id", "/units/spike_times", "/units/id",
        "/processing/behavior/hand_vel/starting_time", "/units"}) {
    ASSERT_TRUE(write_nwb(path_, tiny_recording()));
    remove(name);
    const std::string series = "/processing/behavior/hand_vel";
    expect_corrupt({std::string(name).starts_with(series) ? series : name});
  }
}

TEST_F(NwbFaults, AnIndexOfAnyIntegerWidthIsRead) {
  for (const hid_t type : {H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE, H5T_STD_U64LE, H5T_STD_I8LE,
                           H5T_STD_I64BE, H5T_STD_U16BE}) {
    integers("/units/spike_times_index", {4, 4}, type);
    const auto read = read_nwb(path_);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->units[0].spike_times_s.size(), 4U);
  }
}

TEST_F(NwbFaults, AnIndexOutOfRangeNamesRowAndValue) {
  integers("/units/spike_times_index", {4, 5});
  expect_corrupt({"/units/spike_times_index", "row 1", "5"});
}

TEST_F(NwbFaults, AnIndexBeyondSignedIntegersIsRefused) {
  replace("/units/spike_times_index", H5T_STD_U64LE, H5T_NATIVE_UINT64,
          std::vector<std::uint64_t>{4, std::numeric_limits<std::uint64_t>::max()});
  expect_corrupt({"/units/spike_times_index", "row 1"});
}

TEST_F(NwbFaults, ADescendingIndexNamesRowAndValue) {
  integers("/units/spike_times_index", {4, 3});
  expect_corrupt({"/units/spike_times_index", "row 1", "3", "4"});
}

TEST_F(NwbFaults, AnIndexThatLeavesRowsOverIsRefused) {
  integers("/units/spike_times_index", {2, 3});
  expect_corrupt({"/units/spike_times_index", "ends at 3", "4 rows"});
}

TEST_F(NwbFaults, AnIndexOfAnotherLengthIsRefused) {
  integers("/units/spike_times_index", {4});
  expect_corrupt({"/units/spike_times_index", "1 rows, expected 2"});
}

TEST_F(NwbFaults, AnIndexThatIsNotOfIntegersIsRefused) {
  reals("/units/spike_times_index", {4, 4});
  expect_corrupt({"/units/spike_times_index", "not an integer"});
}

TEST_F(NwbFaults, SpikesOutOfOrderNameRowAndUnit) {
  reals("/units/spike_times", {0.25, 0.5, 0.375, 1.75});
  expect_corrupt({"/units/spike_times", "row 2", "unit 5", "0.375"});
}

TEST_F(NwbFaults, SpikesThatAreNotFiniteNameRowAndUnit) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    reals("/units/spike_times", {0.25, 0.5, bad, bad});
    expect_corrupt({"/units/spike_times", "row 2", "unit 5"});
  }
}

TEST_F(NwbFaults, SpikesOfTwoColumnsAreRefused) {
  reals("/units/spike_times", {0.25, 0.5, 0.5, 1.75}, {2, 2});
  expect_corrupt({"/units/spike_times", "rank 2"});
}

TEST_F(NwbFaults, TimestampsThatDoNotAdvanceNameTheRow) {
  remove("/processing/behavior/hand_vel/starting_time");
  reals("/processing/behavior/hand_vel/timestamps", {0.5, 0.75, 0.75});
  expect_corrupt({"/processing/behavior/hand_vel/timestamps", "row 2", "0.75"});
}

TEST_F(NwbFaults, FewerTimestampsThanDataAreRefused) {
  remove("/processing/behavior/hand_vel/starting_time");
  reals("/processing/behavior/hand_vel/timestamps", {0.5, 0.75});
  expect_corrupt({"/processing/behavior/hand_vel/timestamps", "2 rows, expected 3"});
}

TEST_F(NwbFaults, ATrialThatEndsBeforeItStartsNamesTheRow) {
  reals("/intervals/trials/stop_time", {0.75, 1.5});
  expect_corrupt({"/intervals/trials/stop_time", "row 1"});
}

TEST_F(NwbFaults, ATrialColumnOfAnotherLengthIsRefused) {
  reals("/intervals/trials/reach", {1});
  expect_corrupt({"/intervals/trials/reach", "1 rows, expected 2"});
}

TEST_F(NwbFaults, ObservedIntervalsOfAnotherShapeAreRefused) {
  reals("/units/obs_intervals", {0, 1, 1.5, 2, 0, 2, 0, 0, 0}, {3, 3});
  expect_corrupt({"/units/obs_intervals", "[intervals, 2]"});
}

TEST_F(NwbFaults, AnElectrodeThatIsNotInTheTableIsNamed) {
  integers("/units/electrodes", {2});
  expect_corrupt({"/units/electrodes", "electrode 2"});
}

TEST_F(NwbFaults, ARepeatedUnitIdIsNamed) {
  integers("/units/id", {5, 5});
  expect_corrupt({"/units/id", "row 1", "5"});
}

TEST_F(NwbFaults, AnotherMajorVersionIsUnsupported) {
  edit([&](hid_t file) { H5Adelete(file, "nwb_version"); });
  expect_corrupt({"nwb_version"});
  Recording recording = tiny_recording();
  recording.nwb_version = "3.0.0";
  ASSERT_TRUE(write_nwb(path_, recording));
  const auto read = read_nwb(path_);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::unsupported);
  EXPECT_NE(read.error().message.find("3.0.0"), std::string::npos);
}

TEST_F(NwbFaults, ALinkIntoAnotherFileIsNeverFollowed) {
  const std::string other = folder_.file("other.nwb");
  ASSERT_TRUE(write_nwb(other, tiny_recording()));
  remove("/units/spike_times");
  edit([&](hid_t file) {
    ASSERT_GE(H5Lcreate_external(other.c_str(), "/units/spike_times", file, "/units/spike_times",
                                 H5P_DEFAULT, H5P_DEFAULT),
              0);
  });
  expect_corrupt({"/units/spike_times"});
}

TEST_F(NwbFaults, ALinkThatLeadsBackIsNotWalkedForEver) {
  edit([&](hid_t file) {
    ASSERT_GE(
        H5Lcreate_soft("/processing", file, "/processing/behavior/again", H5P_DEFAULT, H5P_DEFAULT),
        0);
  });
  const auto read = read_nwb(path_);
  EXPECT_TRUE(read || read.error().code == ErrorCode::corrupt_data);
}

TEST_F(NwbFaults, ADatasetThatClaimsMoreThanItStoresIsRefusedBeforeItIsAllocated) {
  remove("/units/spike_times");
  edit([&](hid_t file) {
    const hsize_t dims[] = {hsize_t{1} << 29}, chunk[] = {1 << 16};
    const hid_t space = H5Screate_simple(1, dims, nullptr);
    const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(create, 1, chunk);
    const hid_t data = H5Dcreate2(file, "/units/spike_times", H5T_IEEE_F64LE, space, H5P_DEFAULT,
                                  create, H5P_DEFAULT);
    ASSERT_GE(data, 0);
    H5Dclose(data);
    H5Pclose(create);
    H5Sclose(space);
  });
  expect_corrupt({"/units/spike_times"});
}

// The library itself copies from beyond the end of such a chunk.
TEST_F(NwbFaults, AChunkThatInflatesToLessThanItsSizeNamesItsPlace) {
  const std::vector<double> values = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8};
  in_chunks("/units/spike_times", {8}, {4}, [](hid_t create) { H5Pset_deflate(create, 4); });
  write_chunk("/units/spike_times", {0}, packed(values, 4), 0);
  write_chunk("/units/spike_times", {4}, packed(values, 3), 0);
  expect_corrupt({"/units/spike_times", "the chunk at element (4, 0) holds 24 bytes where 32"});
  write_chunk("/units/spike_times", {4}, packed(values, 5), 0);
  expect_corrupt({"/units/spike_times", "(4, 0) does not inflate to its size"});
  std::string cut = packed(values, 4);
  cut.resize(cut.size() / 2);
  write_chunk("/units/spike_times", {4}, cut, 0);
  expect_corrupt({"/units/spike_times", "(4, 0) does not inflate to its size"});
  // Stored as if its filters had been left out.
  write_chunk("/units/spike_times", {4}, std::string(31, 'x'), 1);
  expect_corrupt({"/units/spike_times", "(4, 0) holds 31 bytes where 32"});
}

TEST_F(NwbFaults, AChunkThatWasNeverWrittenIsNotReadAsZeros) {
  in_chunks("/units/spike_times", {8}, {4}, [](hid_t) {});
  write_chunk("/units/spike_times", {0}, std::string(32, '\0'), 0);
  expect_corrupt({"/units/spike_times", "the chunk at element (4, 0) is not stored"});
}

TEST_F(NwbFaults, AChunkThatDoesNotMatchItsChecksumNamesItsPlace) {
  const std::vector<double> values = {0.1, 0.2, 0.3, 0.4};
  in_chunks("/units/spike_times", {4}, {4}, [](hid_t create) { H5Pset_fletcher32(create); });
  std::string bytes(reinterpret_cast<const char*>(values.data()), 32);
  write_chunk("/units/spike_times", {0}, bytes + std::string(4, '\x01'), 0);
  expect_corrupt({"/units/spike_times", "(0, 0) does not match its checksum"});
}

TEST_F(NwbFaults, ATruncatedFileIsRefusedWhereverItEnds) {
  std::ifstream in(path_, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  for (std::size_t keep = 0; keep < whole.size(); keep += 1 + whole.size() / 37) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << whole.substr(0, keep);
    expect_corrupt({});
  }
}

// The library would read wild memory here, so the file is refused before it sees it.
TEST_F(NwbFaults, ATextReferenceWithoutItsTextIsRefused) {
  std::ifstream in(path_, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  const auto heap = static_cast<std::uint64_t>(whole.find("GCOL"));
  std::string reference(16, '\0');
  std::memcpy(reference.data() + 4, &heap, 8);
  std::size_t changed = 0;
  for (std::size_t at = whole.find(reference.substr(4, 8)); at != std::string::npos;
       at = whole.find(reference.substr(4, 8), at + 1)) {
    for (const auto& [offset, value] : {std::pair{8, '\x7f'}, std::pair{-1, '\x7f'}}) {
      std::string bytes = whole;
      bytes[at + static_cast<std::size_t>(offset)] = value;
      const auto read = read_nwb_image(std::as_bytes(std::span(bytes)), "hostile");
      // Lists of column names are never read, and neither are their references.
      changed += read ? 0 : 1;
    }
  }
  EXPECT_GT(changed, 20U);
}

TEST_F(NwbFaults, AHeapObjectOfNoSizeIsRefused) {
  std::ifstream in(path_, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const std::size_t heap = bytes.find("GCOL");
  ASSERT_NE(heap, std::string::npos);
  std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(heap) + 16, 16, '\0');
  const auto read = read_nwb_image(std::as_bytes(std::span(bytes)), "hostile");
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().message.find("damaged global heap"), std::string::npos);
}

TEST_F(NwbFaults, AnAttributeThatClaimsMoreThanItsMessageHoldsIsNotFollowed) {
  std::ifstream in(path_, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  std::uint64_t root = 0;
  constexpr std::size_t kRootAddress = 0x40;  // in a superblock of version 0
  std::memcpy(&root, bytes.data() + kRootAddress, sizeof root);
  EXPECT_TRUE(hdf5::sound_header(std::as_bytes(std::span(bytes)), root));
  const std::size_t name = bytes.find(std::string("nwb_version\0", 12));
  ASSERT_NE(name, std::string::npos);
  constexpr std::size_t kSizeOfType = 16 + 4;  // after the padded name
  const std::uint32_t huge = 60'000;
  std::memcpy(bytes.data() + name + kSizeOfType, &huge, sizeof huge);
  EXPECT_FALSE(hdf5::sound_header(std::as_bytes(std::span(bytes)), root));
  EXPECT_FALSE(read_nwb_image(std::as_bytes(std::span(bytes)), "overrun"));
  EXPECT_FALSE(hdf5::sound_header(std::as_bytes(std::span(bytes)), bytes.size()));
}

TEST_F(NwbFaults, AFlippedByteNeverDoesMoreThanFail) {
  std::ifstream in(path_, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(in), {}};
  for (std::size_t at = 0; at < whole.size(); at += 1 + whole.size() / 211) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(~bytes[at]);
    const auto read = read_nwb_image(std::as_bytes(std::span(bytes)), "flipped");
    EXPECT_TRUE(read || !read.error().message.empty());
  }
}

TEST(Hdf5File, ReadsWhatTheLibraryWroteWithEveryFilterAndTypeInUnevenChunks) {
  constexpr hsize_t kRows = 1003, kColumns = 7;
  std::vector<double> values(kRows * kColumns);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<double>((i * 2654435761U) % 251);
  const TempDir folder;
  const std::string path = folder.file("chunks.h5");
  const std::vector<hid_t> types = {H5T_IEEE_F64LE, H5T_IEEE_F32BE, H5T_STD_U8LE,
                                    H5T_STD_I16BE,  H5T_STD_U32LE,  H5T_STD_I64LE};
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t dims[] = {kRows, kColumns}, chunk[] = {64, 3};
  const hid_t space = H5Screate_simple(2, dims, nullptr);
  for (unsigned filters = 0; filters < 8; ++filters) {
    for (std::size_t t = 0; t < types.size(); ++t) {
      const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
      H5Pset_chunk(create, 2, chunk);
      if (filters & 1) H5Pset_shuffle(create);
      if (filters & 2) H5Pset_deflate(create, 1);
      if (filters & 4) H5Pset_fletcher32(create);
      const hid_t data = H5Dcreate2(file, fmt::format("f{}t{}", filters, t).c_str(), types[t],
                                    space, H5P_DEFAULT, create, H5P_DEFAULT);
      ASSERT_GE(H5Dwrite(data, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
      H5Dclose(data);
      H5Pclose(create);
    }
  }
  H5Sclose(space);
  H5Fclose(file);
  const auto read = hdf5::File::open(path);
  ASSERT_TRUE(read);
  for (unsigned filters = 0; filters < 8; ++filters) {
    for (std::size_t t = 0; t < types.size(); ++t) {
      const auto array = read->reals(fmt::format("/f{}t{}", filters, t));
      ASSERT_TRUE(array) << array.error().message;
      EXPECT_EQ(array->dims, (std::vector<std::int64_t>{kRows, kColumns}));
      EXPECT_EQ(array->values, values) << "filters " << filters << ", type " << t;
    }
  }
}

TEST(Hdf5File, ReadsCompressedTextOfVariableLength) {
  const TempDir folder;
  const std::string path = folder.file("text.h5");
  const std::vector<const char*> texts = {"train", "", "a longer text, of its own", "val", "none"};
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, H5T_VARIABLE);
  const hsize_t dims[] = {texts.size()}, chunk[] = {2};
  const hid_t space = H5Screate_simple(1, dims, nullptr);
  const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(create, 1, chunk);
  H5Pset_deflate(create, 4);
  const hid_t data = H5Dcreate2(file, "split", type, space, H5P_DEFAULT, create, H5P_DEFAULT);
  ASSERT_GE(H5Dwrite(data, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, texts.data()), 0);
  H5Dclose(data);
  H5Pclose(create);
  H5Sclose(space);
  H5Tclose(type);
  H5Fclose(file);
  const auto read = hdf5::File::open(path);
  ASSERT_TRUE(read);
  const auto array = read->texts("/split");
  ASSERT_TRUE(array) << array.error().message;
  EXPECT_EQ(array->values, std::vector<std::string>(texts.begin(), texts.end()));
}

TEST(NwbRead, AFileThatIsNotThereIsNotFound) {
  const auto read = read_nwb("/no/such/file.nwb");
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::not_found);
}

TEST(NwbRead, AFileThatIsNotHdf5IsCorrupt) {
  const TempDir folder;
  std::ofstream(folder.file("a.nwb")) << "plain text";
  const auto read = read_nwb(folder.file("a.nwb"));
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::corrupt_data);
}

TEST(NwbRead, RefusesNwb1ByItsVersion) {
  const std::string path = data_path("rejects/nwb_1.0.5.nwb");
  CORTEX_SKIP_WITHOUT(path);
  const auto read = read_nwb(path);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::unsupported);
  EXPECT_NE(read.error().message.find("NWB-1.0.5"), std::string::npos) << read.error().message;
}

}  // namespace
}  // namespace cortex
