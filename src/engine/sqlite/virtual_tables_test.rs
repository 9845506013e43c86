//! Every module for virtual tables that SQLite ships: a trusted query reads its tables, and nobody's query writes them.
#![allow(clippy::unwrap_used)] // a failed unwrap is the failed assertion here

use super::tests::{Fixture, fixture, rows};
use super::*;
use crate::engine::EngineErrorKind::{ReadOnly, Syntax};

fn trusted(fixture: &Fixture) -> SqliteEngine {
    let builder = SqliteEngine::builder(&fixture.path).profile(SqliteProfile::Trusted);
    builder.open().unwrap()
}

/// What a trusted query reads of a database, again when the schema has changed, and from a connection used before.
#[track_caller]
fn check(schema: &str, queries: &[(&str, &str)]) {
    let fixture = fixture(schema);
    let engine = trusted(&fixture);
    for (sql, expected) in queries {
        assert_eq!(rows(&engine, &QuerySpec::new(*sql)).unwrap(), *expected, "{sql}");
    }
    let writer = rusqlite::Connection::open(&fixture.path).unwrap();
    writer.execute_batch("CREATE TABLE made_later(a)").unwrap();
    for (sql, expected) in queries {
        assert_eq!(rows(&engine, &QuerySpec::new(*sql)).unwrap(), *expected, "again: {sql}");
    }
}

#[test]
fn rtree() {
    check(
        "CREATE VIRTUAL TABLE rt USING rtree(id, x0, x1, y0, y1, +label);
         INSERT INTO rt VALUES (1, 0, 1, 0, 1, 'near'), (2, 10, 11, 10, 11, 'far');
         CREATE VIRTUAL TABLE ri USING rtree_i32(id, a, b); INSERT INTO ri VALUES (7, 1, 2);
         CREATE VIEW v AS SELECT label FROM rt",
        &[
            ("SELECT * FROM rt WHERE x0 < 5", "[1,0.0,1.0,0.0,1.0,\"near\"]"),
            ("SELECT label FROM rt WHERE id = 2", "[\"far\"]"),
            ("SELECT * FROM ri", "[7,1,2]"),
            ("SELECT count(*) FROM v", "[2]"),
            (
                "SELECT rtreecheck('rt'), rtreedepth(data) FROM rt_node WHERE nodeno = 1",
                "[\"ok\",0]",
            ),
            ("SELECT rt.id FROM ri JOIN rt ON ri.a = rt.id", "[1]"),
        ],
    );
}

#[test]
fn geopoly() {
    check(
        "CREATE VIRTUAL TABLE shapes USING geopoly(name);
         INSERT INTO shapes(_shape, name) VALUES ('[[0,0],[2,0],[0,2],[0,0]]', 'a'), ('[[5,5],[6,5],[5,6],[5,5]]', 'b')",
        &[
            ("SELECT name, geopoly_area(_shape) FROM shapes ORDER BY 1", "[\"a\",2.0],[\"b\",0.5]"),
            (
                "SELECT name FROM shapes WHERE geopoly_overlap(_shape, geopoly_bbox('[[0,0],[1,0],[1,1],[0,1],[0,0]]'))",
                "[\"a\"]",
            ),
        ],
    );
}

#[test]
fn full_text() {
    for module in ["fts3", "fts4"] {
        check(
            &format!(
                "CREATE VIRTUAL TABLE f USING {module}(a, b); INSERT INTO f VALUES ('some words', 'x'), ('other words', 'y')"
            ),
            &[
                ("SELECT * FROM f", "[\"some words\",\"x\"],[\"other words\",\"y\"]"),
                (
                    "SELECT b, snippet(f, '<', '>') FROM f WHERE f MATCH 'some'",
                    "[\"x\",\"<some> words\"]",
                ),
                ("SELECT count(*) FROM f WHERE a MATCH 'wor*'", "[2]"),
            ],
        );
    }
    check(
        "CREATE VIRTUAL TABLE f4 USING fts4(a); INSERT INTO f4 VALUES ('two words');
         CREATE VIRTUAL TABLE terms USING fts4aux(f4);
         CREATE VIRTUAL TABLE tok USING fts3tokenize('simple')",
        &[
            ("SELECT term FROM terms WHERE col = 0", "[\"two\"],[\"words\"]"),
            ("SELECT token FROM tok WHERE input = 'A b'", "[\"a\"],[\"b\"]"),
        ],
    );
    check(
        "CREATE TABLE notes(id INTEGER PRIMARY KEY, body); INSERT INTO notes VALUES (3, 'some words'), (4, 'more');
         CREATE VIRTUAL TABLE f5 USING fts5(body, content = 'notes', content_rowid = 'id');
         INSERT INTO f5(f5) VALUES ('rebuild');
         CREATE VIRTUAL TABLE vocabulary USING fts5vocab(f5, row)",
        &[
            (
                "SELECT rowid, highlight(f5, 0, '<', '>') FROM f5 WHERE f5 MATCH 'some' ORDER BY rank",
                "[3,\"<some> words\"]",
            ),
            (
                "SELECT term, doc FROM vocabulary",
                "[\"more\",1],[\"some\",1],[\"words\",1]",
            ),
            ("SELECT count(*) FROM f5", "[2]"),
        ],
    );
}

#[test]
fn what_needs_no_creating() {
    check(
        "CREATE TABLE t(a); INSERT INTO t VALUES (1)",
        &[
            ("SELECT count(*) > 0 FROM dbstat WHERE name = 't'", "[1]"),
            ("SELECT sum(value) FROM json_each('[1,2,3]')", "[6]"),
            (
                "SELECT key FROM json_tree('{\"a\":1}') WHERE key IS NOT NULL",
                "[\"a\"]",
            ),
            ("SELECT value FROM generate_series(1, 3)", "[1],[2],[3]"),
        ],
    );
}

/// As the files of GeoPackage are: triggers that keep an index call functions that SQLite has not, and so may a view.
#[test]
fn geopackage() {
    let schema = "CREATE TABLE places(fid INTEGER PRIMARY KEY, geom BLOB, name TEXT);
         INSERT INTO places VALUES (1, x'4750', 'here'), (2, x'4750', 'there');
         CREATE VIRTUAL TABLE rtree_places_geom USING rtree(id, minx, maxx, miny, maxy);
         INSERT INTO rtree_places_geom VALUES (1, 0, 1, 0, 1), (2, 5, 6, 5, 6);
         CREATE TRIGGER rtree_places_geom_insert AFTER INSERT ON places WHEN ST_IsEmpty(NEW.geom) = 0
           BEGIN INSERT OR REPLACE INTO rtree_places_geom VALUES (NEW.fid, ST_MinX(NEW.geom), ST_MaxX(NEW.geom), 0, 0); END;
         CREATE VIEW areas AS SELECT fid, ST_Area(geom) AS area FROM places";
    check(
        schema,
        &[
            (
                "SELECT name FROM places JOIN rtree_places_geom r ON fid = r.id WHERE minx < 3",
                "[\"here\"]",
            ),
            ("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'", "[1]"),
        ],
    );
    let fixture = fixture(schema);
    let error = rows(&trusted(&fixture), &QuerySpec::new("SELECT * FROM areas")).unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (Syntax, "no such function: ST_Area")
    );
}

/// What a virtual table may prepare for itself, no client may: not on its own tables, and not on tables that are only called like them.
#[test]
fn statements_of_virtual_tables_are_no_clients() {
    let fixture = fixture(
        "CREATE VIRTUAL TABLE rt USING rtree(id, a, b); INSERT INTO rt VALUES (1, 1, 2);
         CREATE VIRTUAL TABLE f4 USING fts4(a); INSERT INTO f4 VALUES ('words');
         CREATE VIRTUAL TABLE f5 USING fts5(a); INSERT INTO f5 VALUES ('words');
         CREATE TABLE my_node(a); CREATE TABLE my_rowid(a); CREATE TABLE my_parent(a); INSERT INTO my_node VALUES (1);
         CREATE VIEW a_node AS SELECT 1 AS a; CREATE TRIGGER fires INSTEAD OF INSERT ON a_node BEGIN DELETE FROM my_node; END",
    );
    let before = std::fs::read(&fixture.path).unwrap();
    for profile in [SqliteProfile::Untrusted, SqliteProfile::Trusted] {
        let engine = SqliteEngine::builder(&fixture.path).profile(profile).open().unwrap();
        for sql in [
            "INSERT INTO my_node VALUES (2)",
            "INSERT OR REPLACE INTO my_rowid VALUES (2)",
            "UPDATE my_parent SET a = 3",
            "DELETE FROM my_node",
            "DELETE FROM my_node RETURNING a",
            "EXPLAIN DELETE FROM my_node",
            "WITH x AS (SELECT 1) INSERT INTO my_node SELECT * FROM x",
            "INSERT INTO a_node VALUES (1)",
            "CREATE TABLE new_node(a)",
            "CREATE TEMP TABLE new_node(a)",
            "DROP TABLE my_node",
            "ALTER TABLE my_node ADD COLUMN b",
            "INSERT INTO rt VALUES (2, 3, 4)",
            "DELETE FROM rt",
            "INSERT INTO f4(f4) VALUES ('optimize')",
            "INSERT INTO f5(f5) VALUES ('rebuild')",
            "INSERT INTO f5(f5, rank) VALUES ('automerge', 8)",
            "DELETE FROM rt_node",
            "INSERT INTO rt_node VALUES (5, x'00')",
            "UPDATE rt_rowid SET nodeno = 9",
            "DELETE FROM rt_parent RETURNING nodeno",
            "UPDATE f4_segdir SET root = x'00'",
            "DELETE FROM f5_data",
            "PRAGMA page_size = 512",
            "PRAGMA main.page_size(512)",
            "SELECT optimize(f4) FROM f4",
            "SELECT fts3_tokenizer('simple')",
        ] {
            let error = rows(&engine, &QuerySpec::new(sql)).unwrap_err();
            assert!(matches!(error.kind, ReadOnly | Syntax), "{profile:?}, {sql}: {error:?}");
        }
    }
    assert_eq!(std::fs::read(&fixture.path).unwrap(), before);
}

#[test]
fn an_untrusted_query_is_told_what_allows_them() {
    let fixture = fixture(
        "CREATE VIRTUAL TABLE rt USING rtree(id, a, b); CREATE VIRTUAL TABLE f4 USING fts4(a);
         CREATE VIRTUAL TABLE f5 USING fts5(a); INSERT INTO f5 VALUES ('words'); INSERT INTO f4 VALUES ('words')",
    );
    for sql in [
        "SELECT * FROM rt",
        "-- all\nSELECT * FROM f4 WHERE f4 MATCH 'words'",
        "WITH x AS (SELECT * FROM rt) SELECT * FROM x",
        "SELECT * FROM f5 WHERE f5 MATCH 'words'",
    ] {
        let error = rows(&fixture.engine, &QuerySpec::new(sql)).unwrap_err();
        assert_eq!(error.kind, ReadOnly, "{error:?}");
        assert!(
            error.message.contains("profile `untrusted` (`sqlite_profile`)"),
            "{error:?}"
        );
        let hint = error.hint.unwrap_or_default();
        assert!(hint.contains("`sqlite_profile = \"trusted\"` allows it"), "{hint}");
    }
}
