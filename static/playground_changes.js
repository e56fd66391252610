// DXChanges.Changes: what is changed of a conversation, shown at once and stored one change after the other. A change is
// a function of the conversation that returns the values it sets, so that what is refused takes no other with it.
(() => {
  "use strict";

  class Changes {
    // create(values), send(values): resolve to the conversation as it is stored; values are {name: value} to change.
    // shown(isRefused): the conversation has other values now; after a refusal the fields keep what was typed.
    constructor(conversation, { create, send, shown }) {
      Object.assign(this, { conversation, create, send, shown });
      this.stored = { ...conversation };
      this.waiting = [];
      this.turn = Promise.resolve();
    }

    // Resolves when the change is stored, and rejects where it is refused.
    make(change) {
      this.waiting.push(change);
      this.show();
      return this.next(() => this.store(change));
    }

    // Before the first prompt a conversation is nowhere but here.
    ensure() {
      return this.next(async () => {
        if (this.conversation.id) return;
        this.stored = await this.create(this.stored);
        this.show();
      });
    }

    next(act) {
      this.turn = this.turn.catch(() => {}).then(act);
      return this.turn;
    }

    async store(change) {
      let isRefused = true;
      try {
        const values = change(this.stored);
        const { id } = this.stored;
        this.stored = id ? await this.send(values) : whole(this.stored, values);
        isRefused = false;
      } finally {
        this.waiting = this.waiting.filter((other) => other !== change);
        this.show(isRefused);
      }
    }

    show(isRefused = false) {
      const now = this.waiting.reduce((seen, change) => whole(seen, change(seen)), this.stored);
      Object.assign(this.conversation, now);
      this.shown(isRefused);
    }
  }

  // A blind vote is between two models.
  function whole(conversation, values) {
    const now = { ...conversation, ...values };
    return { ...now, blind: now.blind && now.panes.length === 2 };
  }

  window.DXChanges = { Changes };
})();
