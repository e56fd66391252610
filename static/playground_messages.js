// DXMessages: what a model is told, as playground.messages has it.
(() => {
  "use strict";
  // Which answer both models are told after a blind vote.
  const GOES_ON_FROM = { left: 0, right: 1, tie: 0 };

  // Whether a call came to its end before the answer did.
  function isWhole({ function: called }) {
    try {
      const given = JSON.parse(called?.arguments || "");
      return !!called.name && given instanceof Object && !Array.isArray(given);
    } catch {
      return false;
    }
  }

  function said({ text, tool_calls: calls = [] }) {
    const whole = calls.filter(isWhole);
    return { role: "assistant", content: text, ...(whole.length && { tool_calls: whole }) };
  }

  // What an answer said before, with calls of tools and their results.
  function ofRounds(rounds = []) {
    return rounds.flatMap((round) => [
      { ...said(round), ...(round.reasoning && { reasoning_content: round.reasoning }) },
      ...round.results.map((result) => ({ role: "tool", ...result })),
    ]);
  }

  // Up to the prompt at `before`; `turns`: values of prompts with their answers.
  function of(conversation, turns, pane, before = Infinity) {
    const messages = [];
    const { system_prompt: system } = conversation;
    if (system.trim()) messages.push({ role: "system", content: system });
    for (const turn of turns) {
      if (turn.position >= before) break;
      const answer = turn.answers.find((one) =>
        turn.blind && turn.verdict
          ? one.place === GOES_ON_FROM[turn.verdict]
          : one.pane === pane.id,
      );
      if (!answer || !(answer.text || answer.tool_calls?.some(isWhole))) continue;
      messages.push({ role: "user", content: turn.text }, ...ofRounds(answer.rounds), said(answer));
    }
    return messages;
  }

  window.DXMessages = { of, ofRounds, said };
})();
