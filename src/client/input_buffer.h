#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

namespace cortex {

/// Bytes that came from a socket and have not been read yet. Views end with the next room() call.
class InputBuffer {
 public:
  std::string_view view() const { return {data_.data() + begin_, end_ - begin_}; }
  void consume(std::size_t bytes) {
    begin_ += bytes;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  /// Room for at least `bytes` more; what of it was filled is told by commit().
  std::span<char> room(std::size_t bytes) {
    if (data_.size() - end_ < bytes) {
      data_.erase(data_.begin(), data_.begin() + static_cast<std::ptrdiff_t>(begin_));
      end_ -= begin_;
      begin_ = 0;
      if (data_.size() - end_ < bytes) data_.resize(end_ + 2 * bytes);
    }
    return {data_.data() + end_, data_.size() - end_};
  }
  void commit(std::size_t bytes) { end_ += bytes; }

 private:
  std::vector<char> data_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace cortex
