// Entry points: C functions that Python calls by ctypes, each with one struct of parameters.
//
// A struct is declared as a list of fields, from which its description is made as well: Python
// builds its own struct from that, so that the two cannot differ.
#pragma once

#include <exception>
#include <string>

#include "platform.cuh"

#define VITKERN_EXPORT extern "C" __attribute__((visibility("default")))

namespace vitkern {

// Of the last failure in this thread.
inline std::string& error_message() {
  static thread_local std::string message;
  return message;
}

template <class T>
struct FieldCode;
template <>
struct FieldCode<void*> { static constexpr char value = 'P'; };
template <>
struct FieldCode<const void*> { static constexpr char value = 'P'; };
template <>
struct FieldCode<int64_t> { static constexpr char value = 'q'; };
template <>
struct FieldCode<int32_t> { static constexpr char value = 'i'; };
template <>
struct FieldCode<float> { static constexpr char value = 'f'; };

template <class T>
std::string describe(const char* name) {
  return std::string(1, FieldCode<T>::value) + " " + name + "\n";
}

template <class Function>
int guarded(Function function) {
  try {
    function();
    return 0;
  } catch (const std::exception& error) {
    error_message() = error.what();
    return 1;
  }
}

}  // namespace vitkern

#define VITKERN_DECLARE_FIELD(type, name) type name;
#define VITKERN_DESCRIBE_FIELD(type, name) +::vitkern::describe<type>(#name)

// The struct; FIELDS(FIELD) is a list of FIELD(type, name).
#define VITKERN_PARAMS(Name, FIELDS)                                          \
  struct Name {                                                               \
    FIELDS(VITKERN_DECLARE_FIELD)                                             \
    static const char* fields() {                                             \
      static const std::string text = std::string() FIELDS(VITKERN_DESCRIBE_FIELD); \
      return text.c_str();                                                    \
    }                                                                         \
  };

// vitkern_<entry>, which calls vitkern::<entry>(params, stream) with the device as the current one:
// 0, or 1 and vitkern_error().
#define VITKERN_ENTRY(entry, Name)                                                     \
  VITKERN_EXPORT const char* vitkern_##entry##_fields() { return vitkern::Name::fields(); } \
  VITKERN_EXPORT int vitkern_##entry(const vitkern::Name* params, int device, void* stream) { \
    return vitkern::guarded([&] {                                                      \
      vitkern::use_device(device);                                                     \
      vitkern::entry(*params, static_cast<vitkern::Stream>(stream));                   \
    });                                                                                \
  }
