#pragma once

#include <cstddef>
#include <memory_resource>
#include <string>

namespace chronoward {

/// Memory in a file that has no name: what is not looked at for long the system may write there and
/// use for something else. A process that ends, however it does, leaves nothing behind.
///
/// For blocks of many pages; a pool resource on top of it serves small ones. Where there are no
/// memory maps it hands out ordinary memory.
class FileMemory : public std::pmr::memory_resource {
 public:
  /// @param folder where the file lies.
  /// @throws std::system_error it cannot be made.
  explicit FileMemory(const std::string& folder);
  ~FileMemory() override;
  FileMemory(const FileMemory&) = delete;
  FileMemory& operator=(const FileMemory&) = delete;

 private:
  /// @throws std::system_error the disk is full.
  void* do_allocate(std::size_t bytes, std::size_t alignment) override;
  void do_deallocate(void* block, std::size_t bytes, std::size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  int file_ = -1;
  std::size_t size_ = 0;  // of the file: blocks that are given back keep their place
};

}  // namespace chronoward
