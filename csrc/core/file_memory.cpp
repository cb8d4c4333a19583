#include "core/file_memory.hpp"

#include <cerrno>
#include <new>
#include <system_error>

#ifdef __linux__
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace chronoward {

#ifdef __linux__

namespace {

[[noreturn]] void fail(int error, const std::string& what) {
  throw std::system_error(error, std::generic_category(), what);
}

std::size_t whole_pages(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}

}  // namespace

FileMemory::FileMemory(const std::string& folder) {
  std::string name = folder + "/.chronoward-XXXXXX";  // mkostemp replaces the six letters
  file_ = mkostemp(name.data(), O_CLOEXEC);
  if (file_ < 0) fail(errno, "a file for intermediate results in " + folder);
  unlink(name.c_str());
}

FileMemory::~FileMemory() { close(file_); }

void* FileMemory::do_allocate(std::size_t bytes, std::size_t) {
  const std::size_t length = whole_pages(bytes);
  const auto at = static_cast<off_t>(size_);
  // blocks on the disk now: a hole that cannot be filled later would be a signal, not an error
  int error = EINTR;
  while (error == EINTR) error = posix_fallocate(file_, at, static_cast<off_t>(length));
  if (error != 0) fail(error, "room for intermediate results");
  void* block = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, file_, at);
  if (block == MAP_FAILED) throw std::bad_alloc();
  size_ += length;
  return block;
}

void FileMemory::do_deallocate(void* block, std::size_t bytes, std::size_t) {
  munmap(block, whole_pages(bytes));
}

#else

FileMemory::FileMemory(const std::string&) {}

FileMemory::~FileMemory() = default;

void* FileMemory::do_allocate(std::size_t bytes, std::size_t alignment) {
  return ::operator new(bytes, std::align_val_t(alignment));
}

void FileMemory::do_deallocate(void* block, std::size_t, std::size_t alignment) {
  ::operator delete(block, std::align_val_t(alignment));
}

#endif

}  // namespace chronoward
