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
    claims_on_one_page
    claims_on_one_page_mprotect
    claims_on_many_pages
    installs_on_one_page
    page_return_races_claim
    lookup_races_reuse
    lookup_races_replacement
    lookup_announced_races_reuse
    lookup_races_publish
    two_free_by_address
    two_free_one_as_quiescent
    publish_load_call
    publish_load_call_transient
    publish_load_call_mprotect
    publish_load_call_map_jit
    publish_load_call_single_pkey
    replace_load_call
    replace_and_drop_anothers
    invalidate_and_drop_anothers
    slot_two_writers_one_caller
    last_drop_races_pin
    last_drop_races_pin_mprotect
    orphan_races_pin
    reuse_races_pin
    reuse_races_pin_transient
    reuse_races_pin_map_jit
    reuse_races_park
    reuse_races_safepoint
    last_handle_frees_the_arena
    two_recyclers
    scopes_on_one_page
    scopes_on_one_page_transient
    scopes_on_one_page_map_jit
    scopes_on_one_page_mprotect
    birth_inside_a_scope
    birth_inside_a_scope_single_pkey
    trampoline_two_ask
    trampoline_two_ask_mprotect
    crowd_of_16
    crowd_of_8_transient
    crowd_of_8_mprotect
    crowd_of_6_map_jit
    crowd_of_6_single_pkey
    crowd_of_6_open
    last_executor_races_claim
    last_executor_races_claim_mprotect
    claims_on_one_system_page
    holes_that_join
    hole_held_for_a_moment
    hole_made_behind_a_search
    commits_within_a_budget
    lookup_races_retire
    publish_lookup_call
    publish_lookup_call_transient
    publish_lookup_call_mprotect
    walk_races_retire
    publish_load_call_open
    reuse_races_pin_mprotect
    reuse_races_pin_single_pkey
    units_of_two
    ninth_hold
    holds_grow_while_looked_at
    hold_ends_under_a_later_pin
    reuse_on_one_core
    exit_races_collect
    exit_races_attach
    depot_passes_holes_on
    birth_inside_a_scope_map_jit
    scopes_on_one_page_single_pkey
    scopes_on_one_page_open
    scopes_of_two_handles
    scopes_of_two_handles_single_pkey
    scopes_of_two_handles_map_jit
    scopes_of_two_handles_mprotect
    forgotten_scope
    forgotten_scope_mprotect
    forgotten_scope_map_jit
    abandon_inside_a_scope_mprotect
    claims_in_large_units
    trampolines_counted
    trampoline_islands_grow
    trampoline_islands_grow_transient
}
