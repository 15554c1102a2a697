from __future__ import annotations

from emulator.labfile.findings import MAX_FINDINGS, Finding, Position, Report, Severity, printable


def finding(line: int, *, severity: Severity = Severity.ERROR, what: str = "wrong") -> Finding:
    return Finding(severity, "some.code", "lab.yaml", line, 3, "a.b", what, "fix it")


def test_text_has_place_path_cause_and_remedy() -> None:
    assert finding(7).render() == "lab.yaml:7:3: error: a.b: wrong\n    fix: fix it"


def test_a_finding_without_line_names_the_file_alone() -> None:
    assert Finding(Severity.ERROR, "file.unusable", "x", 0, 0, "", "gone").render() == "x: error: gone"


def test_a_report_is_in_file_order_without_repetitions() -> None:
    report = Report.of("lab.yaml", [finding(9), finding(2), finding(9), finding(2, severity=Severity.WARNING)])
    assert [(each.line, each.severity.value) for each in report.findings] == [
        (2, "error"),
        (2, "warning"),
        (9, "error"),
    ]


def test_strict_counts_warnings() -> None:
    report = Report.of("lab.yaml", [finding(1, severity=Severity.WARNING)])
    assert not report.has_errors()
    assert report.has_errors(strict=True)
    assert not Report.of("lab.yaml", []).has_errors(strict=True)


def test_a_flood_is_cut_and_keeps_its_errors() -> None:
    many = [finding(n, severity=Severity.WARNING) for n in range(1, 500)] + [finding(900)]
    report = Report.of("lab.yaml", many)
    assert len(report.findings) == MAX_FINDINGS + 1
    assert [each.line for each in report.errors] == [900]
    assert "300 further findings are not listed" in [each.what for each in report.warnings]


def test_json_counts_and_lists() -> None:
    assert Report.of("lab.yaml", [finding(4)]).to_json() == {
        "file": "lab.yaml",
        "valid": False,
        "errors": 1,
        "warnings": 0,
        "findings": [
            {
                "severity": "error",
                "code": "some.code",
                "file": "lab.yaml",
                "line": 4,
                "column": 3,
                "path": "a.b",
                "what": "wrong",
                "fix": "fix it",
            }
        ],
    }


def test_position_of_an_absent_field_is_that_of_the_nearest_above() -> None:
    report = Report.of("f", [], positions={"a": Position(1, 1), "a.b": Position(2, 3)})
    assert report.position_of("a.b.c.d") == Position(2, 3)
    assert report.position_of("x.y") == Position()


def test_extending_a_report_keeps_its_positions() -> None:
    report = Report.of("f", [], positions={"a": Position(1, 1)}).extended([finding(3)])
    assert report.position_of("a") == Position(1, 1)
    assert report.has_errors()


def test_printable_escapes_and_cuts() -> None:
    assert printable("a\x1b\n\u202e") == "a\\x1b\\n\\u202e"
    assert printable("x" * 300, limit=10) == "xxxxxxx..."
