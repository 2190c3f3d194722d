// Included before each file of mlx-c. Compilers older than GCC 13 have no <format>; mlx-c uses it for messages only.
#pragma once
#if __has_include(<format>)
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>

namespace std {
namespace mlxlm_detail {
inline void format_into(ostringstream& out, string_view pattern) { out << pattern; }

template <typename First, typename... Rest>
void format_into(ostringstream& out, string_view pattern, const First& first, const Rest&... rest) {
  const auto hole = pattern.find("{}");
  out << pattern.substr(0, hole);
  if (hole == string_view::npos) return;
  out << first;
  format_into(out, pattern.substr(hole + 2), rest...);
}
}  // namespace mlxlm_detail

// Knows `{}` only.
template <typename... Args>
string format(string_view pattern, const Args&... args) {
  ostringstream out;
  mlxlm_detail::format_into(out, pattern, args...);
  return out.str();
}
}  // namespace std
#endif
