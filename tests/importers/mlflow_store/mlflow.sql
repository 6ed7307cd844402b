CREATE TABLE "metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	step BIGINT DEFAULT '0' NOT NULL, 
	is_nan BOOLEAN DEFAULT '0' NOT NULL, 
	CONSTRAINT metric_pk PRIMARY KEY ("key", timestamp, step, run_uuid, value, is_nan), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO "metrics" VALUES('critic/rewards/mean',3.00000000000000044408e-01,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('response_length/mean',100.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('prompt_length/mean',20.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('actor/grad_norm',0.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,1);
INSERT INTO "metrics" VALUES('perf/total_num_tokens',7680.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('perf/time_per_step',40.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('perf/throughput',24.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('timing_s/step',40.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('timing_s/gen',20.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('timing_s/update_actor',15.0,1795525524270,'e95f4f59f6f244cd8dfc4fd2f1ee452d',1,0);
INSERT INTO "metrics" VALUES('critic/rewards/mean',0.4,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('response_length/mean',100.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('prompt_length/mean',20.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('actor/grad_norm',0.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,1);
INSERT INTO "metrics" VALUES('perf/total_num_tokens',7680.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('perf/time_per_step',40.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('perf/throughput',24.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('timing_s/step',40.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('timing_s/gen',20.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('timing_s/update_actor',15.0,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('val-core/openai/gsm8k/acc/mean_at_2',4.20000000000000039968e-01,1795525524305,'e95f4f59f6f244cd8dfc4fd2f1ee452d',2,0);
INSERT INTO "metrics" VALUES('critic/rewards/mean',0.5,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('response_length/mean',100.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('prompt_length/mean',20.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('actor/grad_norm',0.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,1);
INSERT INTO "metrics" VALUES('perf/total_num_tokens',7680.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('perf/time_per_step',40.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('perf/throughput',24.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('timing_s/step',40.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('timing_s/gen',20.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('timing_s/update_actor',15.0,1795525524353,'e95f4f59f6f244cd8dfc4fd2f1ee452d',3,0);
INSERT INTO "metrics" VALUES('critic/rewards/mean',6.00000000000000088817e-01,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('response_length/mean',100.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('prompt_length/mean',20.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('actor/grad_norm',0.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,1);
INSERT INTO "metrics" VALUES('perf/total_num_tokens',7680.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('perf/time_per_step',40.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('perf/throughput',24.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('timing_s/step',40.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('timing_s/gen',20.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('timing_s/update_actor',15.0,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
INSERT INTO "metrics" VALUES('val-core/openai/gsm8k/acc/mean_at_2',0.44,1795525524377,'e95f4f59f6f244cd8dfc4fd2f1ee452d',4,0);
CREATE TABLE "params" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(8000) NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT param_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "params" VALUES('trainer/n_gpus_per_node','4','e95f4f59f6f244cd8dfc4fd2f1ee452d');
INSERT INTO "params" VALUES('trainer/nnodes','2','e95f4f59f6f244cd8dfc4fd2f1ee452d');
INSERT INTO "params" VALUES('actor_rollout_ref/model/path','Qwen/Qwen2.5-0.5B','e95f4f59f6f244cd8dfc4fd2f1ee452d');
CREATE TABLE "runs" (
	run_uuid VARCHAR(32) NOT NULL, 
	name VARCHAR(250), 
	source_type VARCHAR(20), 
	source_name VARCHAR(500), 
	entry_point_name VARCHAR(50), 
	user_id VARCHAR(256), 
	status VARCHAR(9), 
	start_time BIGINT, 
	end_time BIGINT, 
	source_version VARCHAR(50), 
	lifecycle_stage VARCHAR(20), 
	artifact_uri VARCHAR(200), 
	experiment_id INTEGER, deleted_time BIGINT, 
	CONSTRAINT run_pk PRIMARY KEY (run_uuid), 
	CONSTRAINT source_type CHECK (source_type IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT')), 
	CONSTRAINT runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING', 'KILLED'))
);
INSERT INTO "runs" VALUES('e95f4f59f6f244cd8dfc4fd2f1ee452d','a run','UNKNOWN','','','somebody','FINISHED',1795525524196,1795525524400,'','active','mlflow-artifacts:/gsm8k/e95f4f59f6f244cd8dfc4fd2f1ee452d/artifacts',1,NULL);
