//! Each model as a test.

use loom_tests::Model;

macro_rules! models {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let model = Model::named(stringify!($name)).unwrap();
                match model.run() {
                    Some(explored) => println!(
                        "{}: {} schedules, {:.1?}",
                        model.name, explored.schedules, explored.time
                    ),
                    None => println!("not run: {}: beyond reach of {}", model.name, loom_tests::CHECKER),
                }
            }
        )*

        #[test]
        fn every_model_is_a_test() {
            let tests = [$(stringify!($name)),*];
            for model in loom_tests::models::all() {
                assert!(tests.contains(&model.name), "{} is no test", model.name);
            }
        }
    };
}

models! {
    publish_load_call
    slot_install_and_replace
}
