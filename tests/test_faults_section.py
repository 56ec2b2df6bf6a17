"""What the report says of what went wrong."""

from server.digest import read_run
from server.faults_section import LONGEST, spans, went_wrong
from server.headline import headline
from server.record import Record


def written(folder, *events):
    record = Record(folder)
    for event, facts in events:
        record.append(event, **facts)
    record.close()
    return read_run(folder)


def trouble(site, round, reason="it rains"):
    return {"site": site, "round": round, "task": "train", "kind": "crashed", "reason": reason}


def test_rounds_are_written_as_spans():
    assert spans([1, 5, 2, 3, 7, 7]) == "1-3, 5, 7"
    assert spans([4]) == "4" and spans([]) == ""


def test_where_all_went_well_nothing_is_said(tmp_path):
    run = written(tmp_path, ("run", {"name": "x"}))
    assert went_wrong(run) == "" and "made up for" not in headline(run)


def test_the_same_trouble_of_a_site_is_one_line_with_its_rounds(tmp_path):
    lost = [("failure", trouble(site, round)) for site, round in (("a", 2), ("b", 2), ("a", 3), ("a", 5))]
    run = written(tmp_path, *lost, ("fault", trouble("a", 4, "its process died")))
    page = went_wrong(run)
    assert "<h3>Lost: 4</h3>" in page and "<h3>Made up for: 1</h3>" in page
    assert "<tr><td>2-3, 5</td><td class=n>3</td><td>a</td><td>train</td><td>crashed</td><td>it rains</td></tr>" in page
    assert "<tr><td>2</td><td class=n>1</td><td>b</td>" in page
    assert "<td>its process died</td>" in page and "more lines" not in page
    assert "1 fault was made up for." in headline(run)


def test_a_change_of_the_recipe_is_told(tmp_path):
    run = written(tmp_path, ("changed", {"round": 3, "key": "train.lr", "before": 0.01, "after": "<b>"}))
    assert "<td>3</td><td>train.lr</td><td>0.01</td><td>&lt;b&gt;</td>" in went_wrong(run)


def test_a_long_list_is_cut_and_counted(tmp_path):
    run = written(tmp_path, *(("failure", trouble(f"site{i}", 1)) for i in range(LONGEST + 3)))
    page = went_wrong(run)
    assert page.count("it rains") == LONGEST and "And 3 more lines; record.jsonl has them all." in page
