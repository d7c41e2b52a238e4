"""Moving the traffic from one slot to another, step by step.

rollout       one rollout under way: its events, and a way to cancel it
operations    deploy, promote, rollback, and going on with what has died
parameters    what an operator may choose
verification  compares a candidate's verdicts with the active slot's
watch         looks after the candidate while its requests are counted
gates         what live requests must show before the candidate gets more of them
"""
