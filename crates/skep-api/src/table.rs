//! What `kubectl get` shows: columns and cells of the `Table` output.

/// A cell: a JSON string, number or boolean. Timestamps are shown as ages, `5m3s`.
pub type Cell = serde_json::Value;

/// A column of a kind's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date`.
    pub ty: &'static str,
    /// OpenAPI format; `name` marks the identifying column.
    pub format: &'static str,
    /// What the column means.
    pub description: &'static str,
    /// 0 is always shown; higher only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The first column of every kind.
    pub const NAME: Column = Column {
        name: "Name",
        ty: "string",
        format: "name",
        description: "The object's name, unique in its namespace.",
        priority: 0,
    };
    /// How old the object is.
    pub const AGE: Column = Column::string("Age", "The time since the object was created.");

    /// A text column that is always shown.
    #[must_use]
    pub const fn string(name: &'static str, description: &'static str) -> Column {
        Column { name, ty: "string", format: "", description, priority: 0 }
    }

    /// A number column that is always shown.
    #[must_use]
    pub const fn integer(name: &'static str, description: &'static str) -> Column {
        Column { name, ty: "integer", format: "", description, priority: 0 }
    }

    /// The same column, shown only with `-o wide`.
    #[must_use]
    pub const fn wide(mut self) -> Column {
        self.priority = 1;
        self
    }
}
