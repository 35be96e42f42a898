use super::*;
use clap::CommandFactory;

fn root() -> Command {
    prepare(crate::Cli::command())
}

fn parse(text: &str) -> Result<File, ConfigError> {
    File::parse(&root(), Path::new("config.toml"), text)
}

fn origin(file: &File, command: &str, key: &str) -> (String, String) {
    let all = show::settings(&root(), file, command).unwrap();
    let found = all.into_iter().find(|s| s.key == key).unwrap();
    (found.value, found.origin)
}

#[test]
fn the_file_gives_defaults_to_the_commands_that_it_names() {
    let file = parse(
        "data = '/srv/skep'\n[up]\nlisten = '10.0.0.1:6443'\nname = ['a.example', 'b.example']\nno-registry = true\ncpu-percent = 200\n\
         [host]\nlabel = ['rack=1']\n",
    )
    .unwrap();
    let from = "file: config.toml".to_owned();
    assert_eq!(origin(&file, "up", "listen"), ("10.0.0.1:6443".to_owned(), from.clone()));
    assert_eq!(origin(&file, "up", "data"), ("/srv/skep".to_owned(), from.clone()));
    assert_eq!(origin(&file, "up", "name"), ("a.example,b.example".to_owned(), from.clone()));
    assert_eq!(origin(&file, "up", "no-registry"), ("true".to_owned(), from.clone()));
    assert_eq!(origin(&file, "host", "label"), ("rack=1".to_owned(), from));
    assert_eq!(origin(&file, "up", "no-host"), ("false".to_owned(), "default".to_owned()));
    assert_eq!(origin(&file, "apiserver", "listen").1, "default", "another section's");
    let matches = |line: &[&str]| {
        let matches = file.apply(root()).try_get_matches_from(line).unwrap();
        matches.subcommand().unwrap().1.clone()
    };
    let up = matches(&["skep", "up", "--listen", "127.0.0.1:1", "--no-registry=false", "--no-host"]);
    assert_eq!(up.get_one::<std::net::SocketAddr>("listen").unwrap().to_string(), "127.0.0.1:1");
    assert!(!up.get_flag("no_registry") && up.get_flag("no_host"));
    assert_eq!(*up.get_one::<u64>("cpu_percent").unwrap(), 200);
    // What stands outside holds for commands that look for what runs, too.
    let tenant = matches(&["skep", "tenant", "list"]);
    let list = tenant.subcommand().unwrap().1;
    assert_eq!(list.get_one::<PathBuf>("data").unwrap(), Path::new("/srv/skep"));
}

#[test]
fn what_is_wrong_is_named_with_what_may_be_meant() {
    let cases = [
        ("lissten = 'x'", "there is no key \"lissten\""),
        ("listen = 'x'", "is \"[up] listen\" meant?"),
        ("[up]\nlissten = 'x'", "there is no key \"up.lissten\"; is \"listen\" meant?"),
        ("[upp]\nlisten = 'x'", "there is no key \"[upp]\"; is \"[up]\" meant?"),
        ("[agent]\nnode = 'x'", "there is no key \"[agent]\""),
        ("[up]\nforeground = true", "there is no key \"up.foreground\""),
        ("[up]\ndetached = true", "there is no key \"up.detached\""),
        ("[up]\nlisten = 'nonsense'", "up.listen: invalid value 'nonsense'"),
        ("[up]\nno-host = 'perhaps'", "up.no-host: invalid value 'perhaps'"),
        ("[up]\ncpu-percent = 'much'", "up.cpu-percent: invalid value 'much'"),
        ("[up]\nlisten = ['127.0.0.1:1', '127.0.0.1:2']", "it takes one value, not a list"),
        ("[up]\nlisten = 1.5", "write a text"),
        ("[up\n", "is not TOML"),
        ("datta = '/x'", "is \"data\" meant?"),
    ];
    for (text, expected) in cases {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(error.contains("config.toml"), "{text}: {error}");
    }
}

#[test]
fn the_file_that_is_asked_for_is_found_before_anything_is_parsed() {
    let find = |line: &str| asked(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
    assert_eq!(find("--config a.toml up"), (Some("a.toml".into()), Some("up".to_owned())));
    assert_eq!(find("--log info host --config=b.toml"), (Some("b.toml".into()), Some("host".to_owned())));
    assert_eq!(find("tenant list"), (None, Some("tenant".to_owned())));
    assert_eq!(find("up -- --config=x"), (None, Some("up".to_owned())));
}

/// Every option is a key and has a variable, no two of one command the same; the example is a good file when nothing is commented out that has a default.
#[test]
fn every_option_is_a_key_and_a_variable() {
    let root = root();
    for command in COMMANDS {
        let keys = keys_of(&root, command);
        assert!(keys.len() >= 2, "{command}");
        let mut variables: Vec<String> = keys.iter().map(|arg| variable(command, arg)).collect();
        variables.sort();
        let count = variables.len();
        variables.dedup();
        assert_eq!(variables.len(), count, "{command}: {variables:?}");
        assert!(keys.iter().all(|arg| !doc_of(arg).is_empty()), "{command}");
    }
    let example = doc::example(&root);
    File::parse(&root, Path::new("example.toml"), &example).unwrap();
    let uncommented: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.contains('…') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let file = File::parse(&root, Path::new("example.toml"), &uncommented).unwrap();
    assert!(file.values.len() > 30, "{uncommented}");
}

fn doc_of(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

/// docs/configuration.md holds the tables as they are. `SKEP_WRITE_DOCS=1` writes them anew.
#[test]
fn the_documentation_is_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let mark = "<!-- what follows is written by `skep config doc` -->\n\n";
    let (head, tables) = text.split_once(mark).unwrap();
    let expected = doc::markdown(&root());
    if std::env::var_os("SKEP_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{mark}{expected}")).unwrap();
        return;
    }
    assert_eq!(tables, expected, "run this test with SKEP_WRITE_DOCS=1");
}
