"""Which suffix is of which language, and what a definition is called in the grammars that are there."""

from __future__ import annotations

from collections.abc import Mapping

LANGUAGES: Mapping[str, str] = {
    ".bash": "bash",
    ".sh": "bash",
    ".zsh": "bash",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".cxx": "cpp",
    ".hh": "cpp",
    ".hpp": "cpp",
    ".cs": "csharp",
    ".go": "go",
    ".java": "java",
    ".cjs": "javascript",
    ".js": "javascript",
    ".jsx": "javascript",
    ".mjs": "javascript",
    ".php": "php",
    ".py": "python",
    ".pyi": "python",
    ".rb": "ruby",
    ".rs": "rust",
    ".ts": "typescript",
    ".tsx": "tsx",
    ".cfg": "ini",
    ".conf": "ini",
    ".ini": "ini",
    ".dart": "dart",
    ".ex": "elixir",
    ".exs": "elixir",
    ".gradle": "groovy",
    ".groovy": "groovy",
    ".graphql": "graphql",
    ".hcl": "hcl",
    ".tf": "hcl",
    ".hs": "haskell",
    ".jl": "julia",
    ".kt": "kotlin",
    ".kts": "kotlin",
    ".lua": "lua",
    ".pl": "perl",
    ".properties": "properties",
    ".proto": "protobuf",
    ".ps1": "powershell",
    ".r": "r",
    ".scala": "scala",
    ".sql": "sql",
    ".swift": "swift",
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
}
#: language -> the package with its grammar, and the function in it.
GRAMMARS = {
    "bash": ("tree_sitter_bash", "language"),
    "c": ("tree_sitter_c", "language"),
    "cpp": ("tree_sitter_cpp", "language"),
    "csharp": ("tree_sitter_c_sharp", "language"),
    "go": ("tree_sitter_go", "language"),
    "java": ("tree_sitter_java", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "python": ("tree_sitter_python", "language"),
    "ruby": ("tree_sitter_ruby", "language"),
    "rust": ("tree_sitter_rust", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
}
#: Nodes that have a name and are worth a section, in any of the grammars; of the first kind what is inside counts, too.
OUTER = frozenset(
    [
        "class",
        "class_declaration",
        "class_definition",
        "class_specifier",
        "abstract_class_declaration",
        "enum_declaration",
        "enum_item",
        "enum_specifier",
        "impl_item",
        "interface_declaration",
        "internal_module",
        "mod_item",
        "module",
        "namespace_declaration",
        "namespace_definition",
        "record_declaration",
        "struct_declaration",
        "struct_item",
        "struct_specifier",
        "trait_declaration",
        "trait_item",
    ]
)
INNER = frozenset(
    [
        "constructor_declaration",
        "function_declaration",
        "function_definition",
        "function_item",
        "generator_function_declaration",
        "macro_definition",
        "method",
        "method_declaration",
        "method_definition",
        "singleton_method",
        "type_alias_declaration",
        "type_spec",
    ]
)
#: Nodes that only stand between a definition and what it is part of.
BETWEEN = frozenset(
    [
        "block",
        "body_statement",
        "class_body",
        "declaration_list",
        "decorated_definition",
        "enum_body",
        "enum_body_declarations",
        "export_statement",
        "expression_statement",
        "field_declaration_list",
        "interface_body",
        "linkage_specification",
        "preproc_if",
        "preproc_ifdef",
        "program",
        "statement_block",
        "template_declaration",
        "type_declaration",
    ]
)
#: JavaScript: functions that get their name by an assignment.
ASSIGNMENTS = frozenset({"lexical_declaration", "variable_declaration"})
FUNCTIONS = frozenset({"arrow_function", "function_expression", "generator_function"})
#: Of these, the ones that begin with a word of their own, which belongs to the definition.
WRAPPERS = frozenset({"decorated_definition", "export_statement", "template_declaration", "type_declaration"})
