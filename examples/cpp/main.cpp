// predict MODEL ROWS.csv: predicts the rows of a CSV file with a model that `lightning_mods.export` wrote as TorchScript
// or as an AOTInductor package, and prints what `lightning_mods.predict` would write. MODEL.json, the schema beside the
// model, says which columns go in, in which order, and which number stands for which category.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <sstream>

#include "json.h"

using Row = std::vector<std::string>;
using Model = std::function<torch::Tensor(const std::vector<torch::Tensor>&)>;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// RFC 4180: fields between commas; in quotes they may hold commas, line breaks and, doubled, quotes.
std::vector<Row> rows_of(const std::string& text) {
  std::vector<Row> rows;
  Row row;
  std::string field;
  bool quoted = false;
  auto end_row = [&] {
    row.push_back(field);
    if (row.size() > 1 || !field.empty()) rows.push_back(row);  // an empty line is no row
    row.clear();
    field.clear();
  };
  for (size_t i = text.rfind("\xEF\xBB\xBF", 0) == 0 ? 3 : 0; i < text.size(); ++i) {  // after a byte order mark
    char c = text[i];
    if (quoted) {
      if (c != '"') field += c;
      else if (i + 1 < text.size() && text[i + 1] == '"') field += text[++i];
      else quoted = false;
    } else if (c == '"') quoted = true;
    else if (c == ',') row.push_back(std::exchange(field, ""));
    else if (c == '\n') end_row();
    else if (c != '\r') field += c;
  }
  if (!field.empty() || !row.empty()) end_row();
  return rows;
}

std::string stripped(const std::string& text) {
  const char* space = " \t\r\n\f\v";
  size_t first = text.find_first_not_of(space);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(space) - first + 1);
}

double number_in(const std::string& cell, const Json& column, bool missing) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::string text = stripped(cell);
  if (missing) return nan;
  char* end = nullptr;
  double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0') {
    if (column["text_counts_as_missing"].number) return nan;
    throw std::runtime_error("column \"" + column["name"].text + "\" needs numbers, not \"" + cell + "\"");
  }
  if (std::isinf(value)) throw std::runtime_error("column \"" + column["name"].text + "\" has an infinite value");
  return value;
}

int64_t code_of(const std::string& cell, const Json& column, bool missing) {
  std::string name = stripped(cell);
  size_t dot = name.find('.');  // 3.0 is the category 3
  size_t sign = name.find_first_of("+-") == 0;
  if (dot != std::string::npos && dot > sign && dot + 1 < name.size() &&
      name.find_first_not_of("0123456789", sign) == dot && name.find_first_not_of('0', dot + 1) == std::string::npos)
    name.resize(dot);
  if (missing || name.empty()) return static_cast<int64_t>(column["missing"].number);
  const auto& codes = column["codes"].object;
  auto found = codes.find(name);
  return static_cast<int64_t>(found == codes.end() ? column["unknown"].number : found->second.number);
}

// The inputs of the model, in the schema's order: float64 numbers and int64 codes, a row of each for a row of the file.
std::vector<torch::Tensor> inputs_of(const Json& schema, const std::vector<Row>& rows) {
  std::vector<std::string> marks;
  for (const Json& mark : schema["missing_text"].list) marks.push_back(mark.text);
  const Row& header = rows.at(0);
  std::vector<torch::Tensor> inputs;
  for (const Json& input : schema["inputs"].list) {
    const auto& columns = input["columns"].list;
    bool numbers = input["name"].text == "numbers";
    auto sizes = {static_cast<int64_t>(rows.size() - 1), static_cast<int64_t>(columns.size())};
    torch::Tensor tensor = torch::empty(sizes, numbers ? torch::kFloat64 : torch::kInt64);
    for (size_t j = 0; j < columns.size(); ++j) {
      const std::string& name = columns[j]["name"].text;
      size_t place = std::find(header.begin(), header.end(), name) - header.begin();
      if (place == header.size()) throw std::runtime_error("the file has no column \"" + name + "\"");
      for (size_t i = 1; i < rows.size(); ++i) {
        if (place >= rows[i].size()) throw std::runtime_error("row " + std::to_string(i) + " has too few fields");
        const std::string& cell = rows[i][place];
        bool missing = std::find(marks.begin(), marks.end(), cell) != marks.end();
        if (numbers) tensor.data_ptr<double>()[(i - 1) * columns.size() + j] = number_in(cell, columns[j], missing);
        else tensor.data_ptr<int64_t>()[(i - 1) * columns.size() + j] = code_of(cell, columns[j], missing);
      }
    }
    inputs.push_back(tensor);
  }
  return inputs;
}

Model opened(const std::string& path, const std::string& format) {
  if (format == "aoti") {
    auto package = std::make_shared<torch::inductor::AOTIModelPackageLoader>(path);
    return [package](const std::vector<torch::Tensor>& inputs) { return package->run(inputs).at(0); };
  }
  if (format == "torchscript") {
    auto module = std::make_shared<torch::jit::script::Module>(torch::jit::load(path));
    module->eval();
    return [module](const std::vector<torch::Tensor>& inputs) {
      return module->forward({inputs.begin(), inputs.end()}).toTensor();
    };
  }
  throw std::runtime_error("this program runs torchscript and aoti; " + path + " is " + format);
}

std::string as_field(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

void print(const Json& schema, torch::Tensor predictions) {
  const Json& output = schema["outputs"].list.at(0);
  predictions = predictions.to(torch::kFloat32).contiguous();
  const float* value = predictions.data_ptr<float>();
  if (!output.has("classes")) {
    std::printf("prediction\n");
    for (int64_t i = 0; i < predictions.size(0); ++i) std::printf("%.9g\n", value[i]);
    return;
  }
  const auto& classes = output["classes"].list;
  std::printf("prediction");
  for (const Json& name : classes) std::printf(",%s", as_field("probability_" + name.text).c_str());
  std::printf("\n");
  for (int64_t i = 0; i < predictions.size(0); ++i, value += classes.size()) {
    std::printf("%s", as_field(classes[std::max_element(value, value + classes.size()) - value].text).c_str());
    for (size_t j = 0; j < classes.size(); ++j) std::printf(",%.9g", value[j]);
    std::printf("\n");
  }
}

int main(int count, char** words) {
  if (count != 3) {
    std::fprintf(stderr, "usage: predict MODEL ROWS.csv\n");
    return 2;
  }
  try {
    torch::InferenceMode no_gradients;
    std::string described = contents(std::string(words[1]) + ".json");
    Json schema = JsonReader(described).read();
    std::vector<Row> rows = rows_of(contents(words[2]));
    if (rows.size() < 2) throw std::runtime_error(std::string(words[2]) + " has no rows");
    print(schema, opened(words[1], schema["format"].text)(inputs_of(schema, rows)));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "predict: %s\n", std::string(error.what()).substr(0, std::string(error.what()).find('\n')).c_str());
    return 2;
  }
}
