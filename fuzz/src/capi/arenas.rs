//! Arenas destroyed, and threads attached to them.

use jita::{
    JITA_ERROR_HANDLE, JITA_ERROR_STATE, JITA_OK, jita_attach, jita_collect, jita_destroy,
    jita_detach, jita_free, jita_verify, jita_write_close,
};

use super::model::Part;
use super::ops::Which;
use super::raw;
use super::world::{World, stats_of};
use crate::code;

impl World {
    pub(super) fn destroy(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let mut errors = self.handle_errors(arena);
        if arena.is_some_and(|at| self.model.part(at).is_unfinished()) {
            errors.push(JITA_ERROR_STATE);
        }
        let status = jita_destroy(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.model.arenas[at].open = false;
            *self.model.part_mut(at) = Part::default();
            self.let_go(at);
        }
    }

    /// A thread has let go of an arena: if it was destroyed and nobody else has it,
    /// its memory is gone.
    pub(super) fn let_go(&mut self, arena: usize) {
        let (model, it) = (&self.model, &self.model.arenas[arena]);
        if !it.open && !it.lingers && !model.parts(arena).any(|part| part.attached) {
            assert!(!code::is_mapped(it.region.start), "nothing is left but the memory");
        }
        self.forget_destroyed();
    }

    /// The thread has ended something in an arena.
    pub(super) fn finished(&mut self, arena: usize) {
        if !self.model.arenas[arena].open && !self.model.part(arena).is_unfinished() {
            *self.model.part_mut(arena) = Part::default();
            self.let_go(arena);
        }
    }

    /// Of arenas that were destroyed the model keeps what threads are inside, and
    /// does not know when those that are not let go.
    pub(super) fn forget_destroyed(&mut self) {
        for at in 0..self.model.arenas.len() {
            if self.model.arenas[at].open {
                continue;
            }
            for thread in &mut self.model.threads {
                if thread[at].attached && !thread[at].is_unfinished() {
                    self.model.arenas[at].lingers = true;
                    thread[at] = Part::default();
                }
            }
            if !self.model.is_entered(at) {
                self.model.live.retain(|_, code| code.arena != at);
                self.model.freed.retain(|freed| freed.code.arena != at);
            }
        }
    }

    pub(super) fn attach(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = self.handle_errors(arena);
        let status = jita_attach(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.attached(at);
            self.model.part_mut(at).attaches += 1;
        }
    }

    pub(super) fn detach(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let status = jita_detach(raw::handle(handle));
        let Some(at) = arena else {
            self.expect(status, JITA_OK, &[JITA_ERROR_HANDLE, JITA_ERROR_STATE]);
            return;
        };
        if self.model.arenas[at].lingers && !self.model.part(at).attached && status == JITA_OK {
            // It had not let go yet.
            return;
        }
        let part = self.model.part(at);
        let is_last = part.attaches <= 1;
        let errors = if !part.attached || is_last && part.is_unfinished() {
            self.out_of_order(at)
        } else {
            Vec::new()
        };
        if self.expect(status, JITA_OK, &errors) {
            if is_last {
                *self.model.part_mut(at) = Part::default();
                self.let_go(at);
            } else {
                self.model.part_mut(at).attaches -= 1;
            }
        }
    }

    pub(super) fn collect(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let mut errors = self.attach_errors(arena);
        if arena.is_some_and(|at| self.model.part(at).scopes > 0) {
            errors.push(JITA_ERROR_STATE);
        }
        let status = jita_collect(raw::handle(handle));
        if let (true, Some(at)) = (self.expect(status, JITA_OK, &errors), arena) {
            self.attached(at);
        }
    }

    pub(super) fn verify(&mut self, which: Which) {
        let (arena, handle) = self.which(which);
        let errors = self.handle_errors(arena);
        let status = jita_verify(raw::handle(handle));
        self.expect(status, JITA_OK, &errors);
    }

    /// Ends what the thread is in the middle of, then every arena.
    pub(super) fn end(&mut self) {
        for at in 0..self.model.arenas.len() {
            let handle = raw::handle(self.model.arenas[at].handle);
            while self.model.part(at).is_unfinished() {
                let part = self.model.part_mut(at);
                let status = if part.is_parked_here() {
                    part.parks.pop();
                    jita::jita_unpark(handle)
                } else if part.frames.pop().is_some() {
                    jita::jita_exit(handle)
                } else {
                    part.close();
                    jita_write_close(handle)
                };
                assert_eq!(status, JITA_OK);
                self.finished(at);
            }
            if !self.model.arenas[at].open {
                continue;
            }
            let all: Vec<usize> =
                self.model.live.values().filter(|it| it.arena == at).map(|it| it.rx).collect();
            for rx in all {
                assert_eq!(jita_free(raw::pointer(rx)), JITA_OK);
                self.model.free(rx);
            }
            assert_eq!(jita_attach(handle), JITA_OK);
            // Twice: the first hands over what the second frees.
            assert_eq!((jita_collect(handle), jita_collect(handle)), (JITA_OK, JITA_OK));
            let stats = stats_of(handle.addr());
            assert_eq!((stats.live_executors, stats.retired_executors), (0, 0), "{stats:?}");
            assert_eq!(jita_verify(handle), JITA_OK);
            assert_eq!(jita_destroy(handle), JITA_OK);
            self.model.arenas[at].open = false;
            *self.model.part_mut(at) = Part::default();
            self.let_go(at);
        }
    }
}
