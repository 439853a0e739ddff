// SPDX-License-Identifier: Apache-2.0
#include "page.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <foresightkv/io/file.hpp>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "support/command_line.hpp"

namespace train_judge {
namespace {

using point = run_curves::point;

constexpr std::string_view style = R"(
  .page { fill: #ffffff; } text { fill: #5d6b7c; font: 12px system-ui, "Segoe UI", sans-serif; }
  .title { fill: #1b2430; font-size: 14px; font-weight: 600; } .grid { stroke: #e3e8ee; }
  path { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .level { stroke: #8b96a3; stroke-dasharray: 5 4; }
  .run0 { stroke: #1f5fd6; } .run1 { stroke: #c8501e; } .run2 { stroke: #0b8a72; } .run3 { stroke: #9a3fb5; }
  text.run0 { fill: #1f5fd6; } text.run1 { fill: #c8501e; } text.run2 { fill: #0b8a72; } text.run3 { fill: #9a3fb5; }
  text[class] { stroke: none; }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1a2029; } text { fill: #97a4b5; } .title { fill: #e4e9f0; } .grid { stroke: #2d3643; }
    .run0 { stroke: #6ea2ff; } .run1 { stroke: #f08a57; } .run2 { stroke: #38c2a4; } .run3 { stroke: #cf85e6; }
    text.run0 { fill: #6ea2ff; } text.run1 { fill: #f08a57; } text.run2 { fill: #38c2a4; } text.run3 { fill: #cf85e6; }
  }
)";

std::string number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

std::string escaped(std::string_view text) {
  std::string safe;
  for (char const c : text) {
    if (c == '<')
      safe += "&lt;";
    else if (c == '&')
      safe += "&amp;";
    else if (c == '"')
      safe += "&quot;";
    else
      safe += c;
  }
  return safe;
}

/// The means of neighbouring points: at most `most` are left.
std::vector<point> thinned(std::vector<point> const& points, std::size_t most) {
  auto const together = (points.size() + most - 1) / std::max<std::size_t>(most, 1);
  if (together <= 1) return points;
  std::vector<point> means;
  for (std::size_t first = 0; first < points.size(); first += together) {
    auto const last = std::min(points.size(), first + together);
    point mean;
    for (auto i = first; i < last; ++i) {
      mean.step += points[i].step / static_cast<double>(last - first);
      mean.value += points[i].value / static_cast<double>(last - first);
    }
    means.push_back(mean);
  }
  return means;
}

/// A level that a policy without training reaches.
struct level {
  std::string name;
  double value;
};

/// One diagram of the picture.
struct panel {
  static constexpr double width = 460, height = 270, left = 64, right = 96, top = 34, bottom = 34;

  std::string title;
  std::vector<std::vector<point>> curves;  // one per run, maybe empty
  std::vector<level> levels;
  double x0, y0;  // where it stands

  [[nodiscard]] std::string draw() const {
    auto const [low, high] = range();
    double const last = last_step();
    auto const x = [&](double step) { return x0 + left + (width - left - right) * step / last; };
    auto const y = [&, low = low, high = high](double value) {
      return y0 + top + (height - top - bottom) * (high - value) / (high - low);
    };
    std::string text = "<text class=\"title\" x=\"" + number(x0 + left, 0) + "\" y=\"" + number(y0 + 18, 0) + "\">" +
                       escaped(title) + "</text>\n";
    int const digits = std::max(0, static_cast<int>(std::ceil(-std::log10((high - low) / 4))) + 1);
    for (int tick = 0; tick <= 4; ++tick) {
      double const value = low + (high - low) * tick / 4;
      text += "<path class=\"grid\" d=\"M" + number(x(0), 1) + " " + number(y(value), 1) + "H" + number(x(last), 1) +
              "\"/>\n<text text-anchor=\"end\" x=\"" + number(x(0) - 8, 1) + "\" y=\"" + number(y(value) + 4, 1) +
              "\">" + number(value, digits) + "</text>\n";
      double const step = last * tick / 4;
      text += "<text text-anchor=\"middle\" x=\"" + number(x(step), 1) + "\" y=\"" + number(y(low) + 20, 1) + "\">" +
              number(step, 0) + "</text>\n";
    }
    for (auto const& [name, value] : levels)
      text += "<path class=\"level\" d=\"M" + number(x(0), 1) + " " + number(y(value), 1) + "H" + number(x(last), 1) +
              "\"/>\n<text x=\"" + number(x(last) + 6, 1) + "\" y=\"" + number(y(value) + 4, 1) + "\">" + name +
              "</text>\n";
    for (std::size_t run = 0; run < curves.size(); ++run) {
      std::string path;
      for (auto const& [step, value] : curves[run])
        path += (path.empty() ? "M" : "L") + number(x(step), 1) + " " + number(y(value), 1);
      if (!path.empty()) text += "<path class=\"run" + std::to_string(run % 4) + "\" d=\"" + path + "\"/>\n";
    }
    return text;
  }

 private:
  [[nodiscard]] std::pair<double, double> range() const {
    double low = 1e300, high = -1e300;
    auto const add = [&](double value) {
      if (!std::isfinite(value)) return;
      low = std::min(low, value);
      high = std::max(high, value);
    };
    for (auto const& curve : curves)
      for (auto const& [step, value] : curve) add(value);
    for (auto const& [name, value] : levels) add(value);
    if (low > high) return {0.0, 1.0};
    double const margin = high > low ? 0.05 * (high - low) : std::max(1e-3, std::fabs(high) * 0.1);
    return {low >= 0.0 ? std::max(0.0, low - margin) : low - margin, high + margin};
  }
  [[nodiscard]] double last_step() const {
    double last = 1.0;
    for (auto const& curve : curves)
      for (auto const& [step, value] : curve) last = std::max(last, step);
    return last;
  }
};

std::vector<std::vector<point>> curves_of(std::vector<run_curves> const& runs, std::vector<point> run_curves::*member) {
  std::vector<std::vector<point>> curves;
  for (auto const& run : runs) curves.push_back(thinned(run.*member, 240));
  return curves;
}

/// A picture of the panels without its frame.
std::string panels(std::vector<run_curves> const& runs, double& height) {
  std::vector<level> errors, losses;
  auto const& first = runs.front();
  auto const add = [&](char const* name, std::optional<run_curves::measured> const& what) {
    if (!what) return;
    errors.push_back({name, what->output_error});
    losses.push_back({name, 1.0 - what->attention_recall});
  };
  add("golden", first.golden);
  add("window_sum", first.window_sum);
  std::vector<panel> all{
      {"ranking loss", curves_of(runs, &run_curves::loss), {}, 0, 0},
      {"share of layers whose gradient was clipped", curves_of(runs, &run_curves::clip_rate), {}, 0, 0}};
  bool const measured = std::ranges::any_of(runs, [](auto const& run) { return !run.output_error.empty(); });
  if (measured) {
    all.insert(all.begin(),
               {"output error on held-out tokens", curves_of(runs, &run_curves::output_error), errors, 0, 0});
    all.insert(all.begin() + 1,
               {"attention lost on held-out tokens", curves_of(runs, &run_curves::lost), losses, 0, 0});
  }
  std::string text;
  double const legend = 30;
  for (std::size_t run = 0; run < runs.size(); ++run)
    text += "<text class=\"run" + std::to_string(run % 4) + "\" x=\"" + number(64 + 200 * static_cast<double>(run), 0) +
            "\" y=\"22\">" + escaped(runs[run].name) + "</text>\n";
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].x0 = panel::width * static_cast<double>(i % 2);
    all[i].y0 = legend + panel::height * static_cast<double>(i / 2);
    text += all[i].draw();
  }
  height = legend + panel::height * static_cast<double>((all.size() + 1) / 2);
  return text;
}

run_curves::measured measured_of(nlohmann::json const& what) {
  return {what.at("output_error").get<double>(), what.at("attention_recall").get<double>()};
}

void read_line(nlohmann::json const& line, run_curves& run) {
  if (line.contains("policy"))
    return (line.at("policy") == "golden" ? run.golden : run.window_sum).emplace(measured_of(line.at("held_out"))),
           void();
  if (!line.contains("step")) return;
  auto const step = line.at("step").get<double>();
  if (line.contains("held_out")) {
    auto const found = measured_of(line.at("held_out"));
    run.output_error.push_back({step, found.output_error});
    run.lost.push_back({step, 1.0 - found.attention_recall});
    return;
  }
  auto const add = [&](char const* name, std::vector<point>& to) {
    if (line.at(name).is_number()) to.push_back({step, line.at(name).get<double>()});
  };
  add("loss", run.loss);
  add("learning_rate", run.rate);
  add("clip_rate", run.clip_rate);
}

}  // namespace

run_curves read_curves(std::string_view metrics, std::string name) {
  run_curves run;
  run.name = std::move(name);
  try {
    while (!metrics.empty()) {
      auto const end = std::min(metrics.find('\n'), metrics.size());
      if (end > 0) read_line(nlohmann::json::parse(metrics.substr(0, end)), run);
      metrics.remove_prefix(std::min(metrics.size(), end + 1));
    }
  } catch (nlohmann::json::exception const&) {
    throw support::input_error(run.name + ": are no metrics of train_judge");
  }
  return run;
}

run_curves load_curves(std::filesystem::path const& folder) {
  auto const name = folder.has_filename() ? folder.filename() : folder.parent_path().filename();
  foresightkv::io::mapped_file const file(folder / "metrics.jsonl");
  auto const bytes = file.bytes();
  return read_curves({reinterpret_cast<char const*>(bytes.data()), bytes.size()}, name.string());
}

std::string svg(std::vector<run_curves> const& runs) {
  double height = 0.0;
  auto const inside = panels(runs, height);
  auto const size = number(2 * panel::width, 0) + " " + number(height, 0);
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + size + "\" width=\"" +
         number(2 * panel::width, 0) + "\"><style>" + std::string(style) + "</style>\n<rect class=\"page\" width=\"" +
         number(2 * panel::width, 0) + "\" height=\"" + number(height, 0) + "\"/>\n" + inside + "</svg>\n";
}

std::string page(std::vector<run_curves> const& runs, std::string const& options) {
  auto const& run = runs.front();
  std::string rows;
  auto const add = [&](std::string const& name, double error, double lost) {
    rows += "<tr><td>" + escaped(name) + "</td><td>" + number(error, 5) + "</td><td>" + number(1.0 - lost, 5) +
            "</td></tr>\n";
  };
  for (auto const& each : runs)
    if (!each.output_error.empty()) add(each.name, each.output_error.back().value, each.lost.back().value);
  if (run.golden) add("golden", run.golden->output_error, 1.0 - run.golden->attention_recall);
  if (run.window_sum) add("window_sum", run.window_sum->output_error, 1.0 - run.window_sum->attention_recall);
  auto const table =
      rows.empty() ? "<p>No tokens were held out: nothing was measured.</p>\n"
                   : "<table><tr><th>on held-out tokens</th><th>output error</th><th>attention recall</th></tr>\n" +
                         rows + "</table>\n";
  return R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>)" +
         escaped(run.name) +
         R"(: a judge in training</title>
<style>
  :root { color-scheme: light dark; }
  body { margin: 0; background: #f6f7f9; color: #1b2430; font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
  main { max-width: 980px; margin: 0 auto; padding: 32px 20px 64px; }
  section { background: #ffffff; border: 1px solid #dfe4ea; border-radius: 12px; padding: 18px 20px; margin-bottom: 20px; }
  h1 { font-size: 26px; margin: 0 0 14px; } svg { width: 100%; height: auto; }
  table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
  th, td { text-align: right; padding: 4px 14px; } th { color: #5d6b7c; font-size: 13px; border-bottom: 1px solid #dfe4ea; }
  th:first-child, td:first-child { text-align: left; padding-left: 0; }
  pre { margin: 0; columns: 3; font-size: 13px; color: #5d6b7c; }
  @media (prefers-color-scheme: dark) {
    body { background: #12161c; color: #e4e9f0; } section { background: #1a2029; border-color: #2d3643; }
    th { border-color: #2d3643; color: #97a4b5; } pre { color: #97a4b5; }
  }
</style></head><body><main>
<h1>A judge in training: )" +
         escaped(run.name) + "</h1>\n<section>\n" + table + "</section>\n<section>\n" + svg(runs) +
         "</section>\n<section><pre>" + escaped(options) + "</pre></section>\n</main></body></html>\n";
}

std::string summary_of(run_curves const& run, std::string const& weights) {
  std::string text = weights + ": " + std::to_string(run.loss.size()) + " steps, loss " +
                     (run.loss.empty() ? "-" : number(thinned(run.loss, 20).back().value, 5)) + " at the end\n";
  if (run.output_error.empty()) return text;
  auto const line = [&](std::string const& name, double error, double recall) {
    text += "  " + name + std::string(12 - name.size(), ' ') + "output error " + number(error, 5) +
            ", attention recall " + number(recall, 5) + "\n";
  };
  line("this judge", run.output_error.back().value, 1.0 - run.lost.back().value);
  if (run.golden) line("golden", run.golden->output_error, run.golden->attention_recall);
  if (run.window_sum) line("window_sum", run.window_sum->output_error, run.window_sum->attention_recall);
  return text;
}

}  // namespace train_judge
